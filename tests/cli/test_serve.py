"""``quire serve``, but for the engine and the server themselves."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from quire.checkpoint import resolve as resolving
from quire.cli.main import main
from quire.core.config import ServeConfig
from quire.core.errors import ConfigError
from quire.engine import client
from quire.server import serve as serving


class House:
    """Records what was started with what."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.config: ServeConfig | None = None
        self.error: Exception | None = None

    def process(self, config: Any) -> "House":
        self.events.append(f"engine of {config.model.model} as {config.model.served_model_name}")
        return self

    def stop(self, timeout_s: float) -> None:
        self.events.append("engine stopped")

    def run(self, config: ServeConfig, path: Path, process: object) -> int:
        self.events.append(f"server of {path}")
        self.config = config
        if self.error is not None:
            raise self.error
        return 0


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    house = House()
    monkeypatch.setattr(resolving, "resolve", lambda model, **options: Path("/models") / model)
    monkeypatch.setattr(client, "EngineProcess", house.process)
    monkeypatch.setattr(serving, "run", house.run)
    return house


def test_the_engine_starts_before_the_server(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "m", "--port", "0", "--enable-torch-compile"]) == 0
    assert house.events == ["engine of /models/m as ['m']", "server of /models/m", "engine stopped"]
    assert house.config is not None and house.config.engine.model.model == "m" and house.config.server.port == 0
    assert "--enable-torch-compile has no effect" in capsys.readouterr().err


def test_the_log_level_reaches_child_processes(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--log-level", "error", "--enable-torch-compile"]) == 0
    assert os.environ["QUIRE_LOG_LEVEL"] == "error"
    assert capsys.readouterr().err == ""


def test_a_stop_waits_for_imports(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def process(config: Any) -> House:
        house.process(config)
        signal.raise_signal(signal.SIGTERM)
        house.events.append("imported")
        return house

    monkeypatch.setattr(client, "EngineProcess", process)
    assert main(["serve", "m"]) == 130
    assert house.events[1:] == ["imported", "engine stopped"]


def test_a_server_that_cannot_start_takes_its_engine_along(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    house.error = ConfigError("the port is taken")
    assert main(["serve", "m"]) == 2
    assert house.events[-1] == "engine stopped"
    assert capsys.readouterr().err == "quire: error: the port is taken\n"


def test_wrong_flags_start_nothing(house: House) -> None:
    assert main(["serve", "m", "--prot", "1"]) == 2
    assert house.events == []
