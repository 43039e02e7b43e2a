"""Fields of a user's in the place of a checkpoint's own."""

import json
from pathlib import Path
from typing import Any

from quire.checkpoint.checkpoint import open_checkpoint
from quire.checkpoint.overrides import Overrides


def config(folder: Path, stated: dict[str, Any], **fields: Any) -> dict[str, Any]:
    (folder / "config.json").write_text(json.dumps(stated))
    return open_checkpoint(folder, Overrides(fields, {})).config


def test_a_field_is_replaced_whole(tmp_path: Path) -> None:
    stated = {"a": 1, "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert config(tmp_path, stated, rope_scaling={"rope_type": "yarn"}, b=2) == {
        "a": 1,
        "b": 2,
        "rope_scaling": {"rope_type": "yarn"},
    }


def test_rope_parameters_replace_what_has_their_older_name(tmp_path: Path) -> None:
    stated = {"rope_scaling": {"type": "linear", "factor": 2.0}}
    assert config(tmp_path, stated, rope_parameters={"rope_type": "yarn"}) == {"rope_parameters": {"rope_type": "yarn"}}


def test_of_a_configuration_inside_its_fields_are_replaced(tmp_path: Path) -> None:
    found = config(tmp_path, {"text_config": {"a": 1, "b": 2}}, text_config={"b": 3})
    assert found == {"text_config": {"a": 1, "b": 3}}


def test_a_quantizers_own_file_is_replaced_too(tmp_path: Path) -> None:
    (tmp_path / "quant_config.json").write_text('{"w_bit": 4}')
    assert config(tmp_path, {}, quantization_config={"quant_method": "gptq"}) == {
        "quantization_config": {"quant_method": "gptq"}
    }
    assert config(tmp_path, {})["quantization_config"] == {"quant_method": "awq", "w_bit": 4}
