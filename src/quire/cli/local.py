"""A whole server inside this process, without a socket: what ``chat``, ``complete`` and ``run-batch`` use on their own.

The engine runs in its own process; the application runs on an asyncio loop in a thread of this one, so that a terminal
can be read and written in the meantime.
"""

import asyncio
import queue
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec

from quire.cli.asgi import Answer, App, call
from quire.cli.door import refusal
from quire.core.config import EngineConfig, ServerConfig

T = TypeVar("T")


class LocalServer:
    """The application and its engine. ``await LocalServer.start(config)``; at last ``close``."""

    def __init__(self, app: App, llm: Any) -> None:
        self.app = app
        self._llm = llm

    @classmethod
    async def start(cls, config: EngineConfig) -> "LocalServer":
        """Start an engine and wait until it is ready; raises what keeps it from starting."""
        from quire.engine.async_llm import AsyncLLM
        from quire.server.app import create_app

        llm = await AsyncLLM.start(config=config)
        names = config.model.served_model_name or [config.model.model]
        return cls(create_app(llm, ServerConfig(), names), llm)

    async def close(self) -> None:
        """End the engine."""
        await self._llm.close()


class LocalDoor:
    """A LocalServer reached from ordinary code, through a loop in a thread."""

    def __init__(self, config: EngineConfig) -> None:
        self.name = f"{config.model.model}, in this process"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="quire-local", daemon=True)
        self._thread.start()
        self._server: LocalServer | None = None
        starting = self._submit(LocalServer.start(config))
        try:
            self._server = starting.result()
        except BaseException:
            starting.cancel()
            self.close()
            raise

    def get(self, path: str) -> Any:
        assert self._server is not None
        answer = self._submit(call(self._server.app, "GET", path)).result()
        if answer.status != 200:
            raise refusal(f"{path} answered {answer.status}", bytes(answer.body))
        return msgspec.json.decode(answer.body)

    def post(self, path: str, body: dict[str, Any]) -> Iterator[bytes]:
        assert self._server is not None
        pieces: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()

        def on_piece(answer: Answer, piece: bytes) -> None:
            pieces.put((answer.status, piece))

        future = self._submit(call(self._server.app, "POST", path, msgspec.json.encode(body), on_piece=on_piece))
        future.add_done_callback(lambda _: pieces.put(None))
        refused = bytearray()
        try:
            while (item := pieces.get()) is not None:
                status, piece = item
                if status == 200:
                    yield piece
                else:
                    refused += piece
            if future.result().status != 200:
                raise refusal("The request was refused", bytes(refused))
        finally:
            future.cancel()

    def close(self) -> None:
        """End the engine, then the loop."""
        if self._server is not None:
            self._submit(self._server.close()).result()
            self._server = None
        self._submit(_rest()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)


async def _rest() -> None:
    """Wait for everything else on this loop to end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
