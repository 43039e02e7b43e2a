"""Reading a stream: what counts as output, what ends it, what breaks it."""

import json
from typing import Any

import pytest

from quire.bench.answer import Answer
from quire.bench.events import error_message
from quire.core.errors import QuireError


def completion(text: str, finish: str | None = None, **fields: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"text": text, "finish_reason": finish}], **fields}).encode() + b"\n\n"


def chat(delta: dict[str, Any], finish: str | None = None) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}\n\n'
DONE = b"data: [DONE]\n\n"


def read(*pieces: tuple[float, bytes]) -> Answer:
    """An answer to a request sent at 10 s."""
    answer = Answer(9.0, 10.0)
    for time_s, piece in pieces:
        answer.feed(piece, time_s)
    return answer


def test_times_and_counts() -> None:
    answer = read(
        (10.5, completion("a")), (11.0, completion("bcd")), (12.5, completion("e", "length")), (12.6, USAGE + DONE)
    )
    answer.end()
    assert (answer.ttft_s, answer.chunk_gaps_s, answer.latency_s) == (0.5, [0.5, 1.5], 2.5)
    assert (answer.num_prompt_tokens, answer.num_tokens, answer.num_chunks) == (5, 7, 3)
    assert (answer.text, answer.client_queue_time_s, answer.is_success) == ("abcde", 1.0, True)


def test_events_cut_anywhere() -> None:
    whole = b": keep-alive\n\n" + completion("ä") + completion("b", "stop").replace(b"\n", b"\r\n") + USAGE + DONE
    for cut in range(1, len(whole)):
        answer = read((11.0, whole[:cut]), (12.0, whole[cut:]))
        answer.end()
        assert (answer.text, answer.num_chunks, answer.num_tokens) == ("äb", 2, 7)


def test_several_events_at_once_are_several_pieces() -> None:
    answer = read((11.0, completion("a") + completion("b")), (12.0, completion("c", "length") + DONE))
    assert answer.chunk_gaps_s == [0.0, 1.0]
    assert answer.num_tokens == 3  # nobody counted


def test_a_role_is_no_output_and_neither_is_a_farewell() -> None:
    answer = read(
        (10.1, chat({"role": "assistant", "content": ""})),
        (11.0, chat({"reasoning_content": "hm"})),
        (12.0, chat({"content": "a"})),
        (13.0, chat({}, "stop") + DONE),
    )
    answer.end()
    assert (answer.ttft_s, answer.chunk_gaps_s, answer.latency_s, answer.text) == (1.0, [1.0], 3.0, "hma")


def test_a_token_without_text_is_output_of_a_completion() -> None:
    answer = read((11.0, completion("")), (12.0, completion("a")), (12.5, completion("", "length") + DONE))
    assert (answer.ttft_s, answer.chunk_gaps_s, answer.latency_s) == (1.0, [1.0], 2.5)


def test_an_answer_without_text_is_one() -> None:
    answer = read((11.0, chat({"role": "assistant", "content": ""})), (12.0, chat({}, "length") + DONE))
    answer.end()
    assert (answer.ttft_s, answer.latency_s, answer.num_chunks) == (2.0, 2.0, 1)


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ((), "not a stream of completions"),
        ((b'{"choices": []}',), "not a stream of completions"),
        ((DONE,), "not a stream of completions"),
        ((completion("a"),), "broke off before its end"),
        ((completion("a"), b"data: {nonsense\n\n"), "cannot be read"),
        ((completion("a"), b'data: {"error": {"message": "The engine died."}}\n\n'), "broke off: The engine died."),
        ((b'data: {"error": "out of memory"}\n\n',), "out of memory"),
        ((b'data: {"choices": [{"text": "\xff"}]}\n\n',), "cannot be read: .*utf-8"),
        ((b'data: {"x": ' + b"[" * 9000 + b"\n\n",), "cannot be read: maximum recursion depth"),
    ],
)
def test_what_breaks_an_answer(pieces: tuple[bytes, ...], words: str) -> None:
    with pytest.raises(QuireError, match=words):
        read(*((11.0 + i, piece) for i, piece in enumerate(pieces))).end()


def test_messages_of_errors() -> None:
    assert error_message(b'{"error": {"message": "no", "type": "x"}}') == "no"
    assert error_message(b'{"object": "error", "message": "no"}') == "no"
    assert error_message(b'{"error": {"message": "\xff"}}').startswith('{"error"')
    assert error_message(b'{"x": ' + b"[" * 9000).startswith('{"x": [[')
    assert error_message(b"<html>Bad Gateway") == "<html>Bad Gateway"
