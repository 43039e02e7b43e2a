"""Stop strings are found exactly, however the text is cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.text.stop import StopMatcher

letters = st.text(alphabet="ab\n", max_size=40)
stops = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=5), min_size=1, max_size=4).map(tuple)


def expected(text: str, stop: tuple[str, ...], include: bool) -> tuple[str, str | None]:
    """By looking at the whole text: the match that ends first, of those the longest."""
    for end in range(1, len(text) + 1):
        found = max((word for word in stop if text[:end].endswith(word)), key=len, default=None)
        if found is not None:
            return text[: end if include else end - len(found)], found
    return text, None


def run(chunks: list[str], stop: tuple[str, ...], include: bool) -> tuple[str, str | None, list[str]]:
    matcher = StopMatcher(stop, include)
    out: list[str] = []
    for chunk in chunks:
        text, found = matcher.push(chunk)
        out.append(text)
        if found is not None:
            return "".join(out), found, out
    out.append(matcher.flush())
    return "".join(out), None, out


@settings(max_examples=500, deadline=None)
@given(text=letters, stop=stops, include=st.booleans(), data=st.data())
def test_any_chunking_equals_the_whole(text: str, stop: tuple[str, ...], include: bool, data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    chunks = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    emitted, found, _ = run(chunks, stop, include)
    assert (emitted, found) == expected(text, stop, include)


@settings(max_examples=200, deadline=None)
@given(text=letters, stop=stops)
def test_no_more_is_held_back_than_may_be_a_beginning(text: str, stop: tuple[str, ...]) -> None:
    matcher = StopMatcher(stop, False)
    shown = ""
    for at, char in enumerate(text):
        piece, found = matcher.push(char)
        shown += piece
        if found is not None:
            return
        held = text[len(shown) : at + 1]
        assert held == "" or any(word.startswith(held) for word in stop)


@pytest.mark.parametrize(
    ("chunks", "stop", "include", "emitted", "found"),
    [
        (["Hello", " world"], ("o w",), False, "Hell", "o w"),
        (["Hello", " world"], ("o w",), True, "Hello w", "o w"),
        (["abc"], ("bc", "abc"), False, "", "abc"),
        (["abcd"], ("abcd", "bc"), False, "a", "bc"),
        (["aab"], ("ab",), False, "a", "ab"),
        (["a", "a", "a", "b"], ("aab",), False, "a", "aab"),
        (["no stop here"], ("END",), False, "no stop here", None),
        (["EN"], ("END",), False, "EN", None),
        (["😀\n", "\nUser:"], ("\n\nUser:",), False, "😀", "\n\nUser:"),
    ],
)
def test_examples(chunks: list[str], stop: tuple[str, ...], include: bool, emitted: str, found: str | None) -> None:
    assert run(chunks, stop, include)[:2] == (emitted, found)


def test_text_is_let_out_as_soon_as_it_is_safe() -> None:
    matcher = StopMatcher(("END!",), False)
    assert matcher.push("xEN") == ("x", None)
    assert matcher.push("DU") == ("ENDU", None)
    assert matcher.push("E") == ("", None)
    assert matcher.flush() == "E"
    assert matcher.flush() == ""


def test_with_include_nothing_is_held_back() -> None:
    matcher = StopMatcher(("END",), True)
    assert matcher.push("xEN") == ("xEN", None)
    assert matcher.push("D and more") == ("D", "END")


def test_after_a_stop_there_is_no_more_text() -> None:
    matcher = StopMatcher((".",), False)
    assert matcher.push("a.b") == ("a", ".")
    assert matcher.push("c") == ("", ".")
    assert matcher.flush() == ""


def test_a_long_run_of_near_misses_stays_linear() -> None:
    """Quadratic searching would take 10**10 steps."""
    matcher = StopMatcher(("a" * 1000 + "b",), False)
    shown = sum(len(matcher.push("a" * 50)[0]) for _ in range(4000))
    assert shown == 4000 * 50 - 1000
