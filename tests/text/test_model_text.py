"""What a client needs of a model, read from its files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire.core.config import ModelConfig
from quire.core.errors import ConfigError, CorruptCheckpoint
from quire.text.model_text import ModelText


@pytest.mark.parametrize("recommended", [{"temperature": "hot"}, {"top_p": 0}, {"top_k": 10**400}])
def test_sampling_that_cannot_be_done_is_refused_at_the_start(
    recommended: dict[str, Any], tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps(recommended))
    with pytest.raises(CorruptCheckpoint, match=f"{next(iter(recommended))} is .*--generation-config none"):
        ModelText.load(folder, ModelConfig(model=str(folder)))
    assert ModelText.load(folder, ModelConfig(model=str(folder), generation_config="none")).default_params == {}


def test_sampling_defaults_and_ends_can_be_replaced(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_k": 20, "eos_token_id": 3}))

    def load(**settings: Any) -> ModelText:
        return ModelText.load(folder, ModelConfig(model=str(folder), **settings))

    said = {"top_k": 5, "eos_token_id": [4, 5]}
    replaced = load(override_generation_config=said)
    assert replaced.default_params == {"temperature": 0.6, "top_k": 5}
    assert replaced.eos_token_ids[:2] == (4, 5)
    assert load(override_generation_config=said, generation_config="none").default_params == {"top_k": 5}
    with pytest.raises(ConfigError, match="sets max_new_tokens"):
        load(override_generation_config={"max_new_tokens": 5})
