"""Streams of tokens give the same text as all tokens at once, however they are cut, and never half a character."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from quire.text.detokenizer import Detokenizer
from quire.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def bytes_only() -> Tokenizer:
    """A SentencePiece vocabulary of nothing but bytes, a space and specials: the most broken characters possible."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}, "\u2581": 259}
    backend = Backend(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer(backend, {"eos_token": "</s>"})


KINDS = ("byte_level", "sentencepiece_tokenizer", "bytes_only")


@pytest.fixture(scope="session", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


def streamed(tokenizer: Tokenizer, prompt: list[int], chunks: list[list[int]], skip: bool) -> list[str]:
    stream = Detokenizer(tokenizer, prompt, skip_special_tokens=skip)
    return ["".join(map(stream.push, chunk)) for chunk in chunks] + [stream.flush()]


def cut(data: st.DataObject, ids: list[int]) -> list[list[int]]:
    places = sorted(data.draw(st.sets(st.integers(0, len(ids)), max_size=8)))
    return [ids[start:end] for start, end in zip([0, *places], [*places, len(ids)], strict=True)]


quick = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(data=st.data(), skip=st.booleans())
def test_any_ids_in_any_chunks_equal_the_whole(tokenizer: Tokenizer, data: st.DataObject, skip: bool) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    assert "".join(streamed(tokenizer, [], cut(data, ids), skip)) == tokenizer.decode(ids, skip)


@quick
@given(data=st.data(), skip=st.booleans(), text=st.text(max_size=20), more=st.text(min_size=1, max_size=20))
def test_a_continuation_is_what_the_prompt_lacks(
    tokenizer: Tokenizer, data: st.DataObject, skip: bool, text: str, more: str
) -> None:
    """The prompt may end inside a character."""
    ids = tokenizer.encode(text + more)
    at = data.draw(st.integers(0, len(ids)))
    prompt, rest = ids[:at], ids[at:]
    pieces = streamed(tokenizer, prompt, cut(data, rest), skip)
    whole = tokenizer.decode(ids, skip)
    assert whole.endswith("".join(pieces))
    shown = whole[: len(whole) - len("".join(pieces))]
    # what the prompt shows for a character cut in two is one U+FFFD, or one for each byte read apart
    assert tokenizer.decode(prompt, skip).rstrip("\ufffd") == shown.rstrip("\ufffd") or not rest


@quick
@given(text=st.text(alphabet="aé月😀 \U0001f469\u200d\U0001f680", max_size=20))
def test_valid_text_never_shows_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = streamed(tokenizer, [], [[token_id] for token_id in ids], False)
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == tokenizer.decode(ids, False)


def test_a_word_after_a_prompt_keeps_its_space(sentencepiece_tokenizer: Tokenizer) -> None:
    ids = sentencepiece_tokenizer.encode("The quick", add_special_tokens=False)
    first = len(sentencepiece_tokenizer.encode("The", add_special_tokens=False))
    assert "".join(streamed(sentencepiece_tokenizer, ids[:first], [ids[first:]], True)) == " quick"
    assert "".join(streamed(sentencepiece_tokenizer, [], [ids], True)) == "The quick"
    assert "".join(streamed(sentencepiece_tokenizer, [1], [ids], True)) == "The quick"
    assert "".join(streamed(sentencepiece_tokenizer, [1], [ids], False)) == " The quick"


def test_bytes_of_a_character_come_out_together(bytes_only: Tokenizer) -> None:
    ids = [3 + byte for byte in "a😀b".encode()]
    assert streamed(bytes_only, [], [[token_id] for token_id in ids], True) == ["a", "", "", "", "😀", "b", ""]


def test_a_character_begun_in_the_prompt_comes_out_whole(bytes_only: Tokenizer) -> None:
    ids = [3 + byte for byte in "x月y".encode()]
    assert streamed(bytes_only, ids[:2], [ids[2:]], True) == ["月y", ""]
    assert streamed(bytes_only, ids[:2], [], True) == [""]


def test_incomplete_bytes_become_a_replacement_at_the_end(bytes_only: Tokenizer) -> None:
    ids = [3 + byte for byte in "😀".encode()[:2]]
    assert streamed(bytes_only, [], [ids], True) == ["", "\ufffd"]
    assert bytes_only.decode(ids) == "\ufffd"


def test_special_tokens_show_only_when_asked(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("hi<|im_end|>")
    assert "".join(streamed(byte_level, [], [ids], True)) == "hi"
    assert "".join(streamed(byte_level, [], [ids], False)) == "hi<|im_end|>"


def test_ids_of_a_padded_embedding_have_no_text(byte_level: Tokenizer) -> None:
    assert streamed(byte_level, [], [[byte_level.vocab_size + 7]], True) == ["", ""]


def test_cost_does_not_grow_with_what_was_said(byte_level: Tokenizer) -> None:
    stream = Detokenizer(byte_level, [])
    (token,) = byte_level.encode(" the")

    def cost(count: int) -> float:
        best = float("inf")
        for _ in range(5):
            start = time.thread_time()
            for _ in range(count):
                stream.push(token)
            best = min(best, time.thread_time() - start)
        return best

    early = cost(400)
    for _ in range(100_000):
        stream.push(token)
    assert cost(400) < 5 * early
