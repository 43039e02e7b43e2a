"""What a client needs of a model, read from its files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire.core.config import ModelConfig
from quire.core.errors import CorruptCheckpoint
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
