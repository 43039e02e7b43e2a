"""However a stream of messages is cut, the same messages come out."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from quire.core.framing import Cutter, framed


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 400), max_size=12))
def test_any_pieces_give_the_same_messages(messages: list[bytes], places: list[int]) -> None:
    stream = b"".join(map(framed, messages))
    cuts = sorted({0, len(stream), *(place for place in places if place < len(stream))})
    cutter = Cutter()
    found = [bytes(one) for begin, end in pairwise(cuts) for one in cutter.cut(stream[begin:end])]
    assert found == messages


def test_a_message_comes_out_as_soon_as_it_is_whole() -> None:
    cutter = Cutter()
    stream = framed(b"one") + framed(b"two")
    found = [[bytes(message) for message in cutter.cut(stream[n : n + 1])] for n in range(len(stream))]
    assert [n for n, messages in enumerate(found) if messages] == [len(framed(b"one")) - 1, len(stream) - 1]


def test_nothing_of_a_whole_piece_is_copied() -> None:
    piece = framed(b"one")
    assert Cutter().cut(piece)[0].obj is piece
