"""The server inside this process: answers, hanging up, and clean ends."""

import asyncio
import threading
from typing import Any

import pytest

from quire.cli.local import LocalDoor, LocalServer
from quire.core.config import EngineConfig
from quire.core.errors import ConfigError, QuireError


class Application:
    """Streams the letters of the body for ever, or refuses; says what became of it."""

    def __init__(self) -> None:
        self.is_closed = False
        self.hung_up = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        status = 200 if scope["path"] != "/no" else 400
        await send({"type": "http.response.start", "status": status, "headers": []})
        if scope["path"] == "/endless":
            await self._endless(body, send)
        else:
            answer = b'{"error": {"message": "Not here."}}' if status == 400 else body or b'{"ok": true}'
            await send({"type": "http.response.body", "body": answer})

    async def _endless(self, body: bytes, send: Any) -> None:
        try:
            while True:
                await send({"type": "http.response.body", "body": body, "more_body": True})
                await asyncio.sleep(0)
        finally:
            self.hung_up.set()

    async def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> Application:
    application = Application()

    async def start(config: EngineConfig) -> LocalServer:
        return LocalServer(application, application)

    monkeypatch.setattr(LocalServer, "start", start)
    return application


def test_answers(application: Application) -> None:
    door = LocalDoor(EngineConfig())
    assert door.get("/x") == {"ok": True}
    assert b"".join(door.post("/x", {"a": 1})) == b'{"a":1}'
    with pytest.raises(QuireError, match="refused: Not here"):
        list(door.post("/no", {}))
    with pytest.raises(QuireError, match="400: Not here"):
        door.get("/no")
    door.close()
    assert application.is_closed


def test_leaving_early_hangs_up(application: Application) -> None:
    door = LocalDoor(EngineConfig())
    pieces = door.post("/endless", {"a": 1})
    assert next(pieces) == b'{"a":1}'
    pieces.close()  # type: ignore[attr-defined]
    assert application.hung_up.wait(10)
    door.close()


def test_what_keeps_an_engine_from_starting_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(config: EngineConfig) -> LocalServer:
        raise ConfigError("too large")

    monkeypatch.setattr(LocalServer, "start", start)
    threads = threading.active_count()
    with pytest.raises(ConfigError, match="too large"):
        LocalDoor(EngineConfig())
    assert threading.active_count() == threads
