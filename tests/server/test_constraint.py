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
    turn: Any = SimpleNamespace(
        params=SimpleNamespace(structured_outputs=shape),
        offered=offered,
        must_call=must_call,
        forced_tool=None,
        has_parallel_calls=True,
    )
    grammar = reply_grammar(turn, choose("harmony", "harmony", None), DOOR, False)
    assert {frame for frame in (FINAL, CALL) if frame in grammar} == frames
    assert "<|channel|>analysis<|message|>" in grammar
