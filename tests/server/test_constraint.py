"""What a turn may say goes into one grammar, framed as the model's dialect frames answers and calls."""

from types import SimpleNamespace
from typing import Any

import pytest

from quire.core.structured_outputs import StructuredOutputs
from quire.server.constraint import reply_grammar
from quire.text.dialects.dialect import Tool
from quire.text.dialects.registry import choose
from quire.text.grammar.lark import json_piece

DOOR: Any = SimpleNamespace(
    special={}, piece=lambda _: json_piece({"type": "object"}), text=lambda piece, _: piece.text()
)
FINAL, CALL = "<|channel|>final<|message|>", "commentary to=functions."


def a_turn(shape: StructuredOutputs | None, offered: tuple[Tool, ...], must_call: bool) -> Any:
    return SimpleNamespace(
        params=SimpleNamespace(structured_outputs=shape),
        offered=offered,
        must_call=must_call,
        forced_tool=None,
        has_parallel_calls=True,
    )


@pytest.mark.parametrize(
    ("shape", "offered", "must_call", "frames"),
    [
        (StructuredOutputs(json_object=True), (), False, {FINAL}),
        (StructuredOutputs(json_object=True), (Tool(name="now"),), False, {FINAL, CALL}),
        (None, (Tool(name="now", strict=True),), False, {FINAL, CALL}),
        (None, (Tool(name="now"),), True, {CALL}),
    ],
)
def test_answers_of_harmony_stand_in_their_channel(
    shape: StructuredOutputs | None, offered: tuple[Tool, ...], must_call: bool, frames: set[str]
) -> None:
    turn = a_turn(shape, offered, must_call)
    grammar = reply_grammar(turn, choose("harmony", "harmony", None), DOOR, "")
    assert {frame for frame in (FINAL, CALL) if frame in grammar} == frames
    assert "<|channel|>analysis<|message|>" in grammar


@pytest.mark.parametrize("reasoning", ["think", "deepseek_r1"])
def test_a_prompt_that_ends_reasoning_leaves_none_to_the_reply(reasoning: str) -> None:
    dialects = choose("hermes", reasoning, None)
    for turn in (a_turn(None, (Tool(name="now"),), True), a_turn(StructuredOutputs(json_object=True), (), False)):
        bare = reply_grammar(turn, choose("hermes", "none", None), DOOR, "")
        assert reply_grammar(turn, dialects, DOOR, "<think>\n\n</think>\n\n") == bare
        for prompt in ("", "<think>\n", "<think>\n\n</think>\n\nHello<|im_end|>\n<|im_start|>assistant\n"):
            assert "</think>" in reply_grammar(turn, dialects, DOOR, prompt)
