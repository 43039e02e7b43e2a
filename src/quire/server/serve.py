"""The HTTP server's life: bind, serve, drain.

On the first SIGTERM or SIGINT the server says it is not ready and takes no new requests; what runs may end within
``shutdown_timeout_s`` and is then aborted with finish_reason abort. A second signal ends at once, and so does one that
comes before the server is there.
"""

import asyncio
import contextlib
import gc
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import uvicorn
from starlette.applications import Starlette

from quire.core.config import ServeConfig, ServerConfig
from quire.core.errors import ConfigError
from quire.core.signals import heard
from quire.engine.async_llm import AsyncLLM
from quire.engine.client import EngineProcess
from quire.server.app import create_app
from quire.server.middleware.hosts import is_loopback
from quire.server.protocol import timed
from quire.server.service import Service

if sys.platform == "win32":
    from asyncio import run as run_loop
else:
    from uvloop import run as run_loop

log = logging.getLogger("quire.server")

_KEY_VARIABLES = ("QUIRE_API_KEY", "VLLM_API_KEY")
_KEEP_ALIVE_S = 30
_TICK_S = 1.0
"""The Date header is told in whole seconds."""
_LAST_WORDS_S = 5
"""Time that aborted requests have to send their ends."""


def run(config: ServeConfig, path: Path, process: EngineProcess) -> int:
    """Serve the model at ``path``, whose engine is starting in ``process``, until told to stop; the exit code.

    Raises KeyboardInterrupt if told before the server is there.
    """
    names = config.engine.model.served_model_name or [config.engine.model.model]

    async def main() -> int:
        server = with_keys(config.server, os.environ)
        listener = bind(server)  # before the model is loaded: a taken port is known at once
        starting = asyncio.current_task()
        assert starting is not None
        with heard(starting.cancel):
            llm = await AsyncLLM.attach(config.engine, path, process)
            gc.freeze()  # what lives from the start on is not searched for garbage: that takes 50 ms each time
            try:
                return await serve(llm, server, names, listener)
            finally:
                await llm.close()

    try:
        return run_loop(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def with_keys(config: ServerConfig, environ: Mapping[str, str]) -> ServerConfig:
    """The settings with the keys of the environment; raises ConfigError if anyone could then reach the server."""
    found = [environ[name] for name in _KEY_VARIABLES if environ.get(name)]
    config = msgspec.structs.replace(config, api_key=list(dict.fromkeys([*config.api_key, *found])))
    if not is_loopback(config.host) and not config.api_key and not config.insecure:
        raise ConfigError(
            f"--host {config.host} lets other machines in, and there is no key: set --api-key or QUIRE_API_KEY, or say "
            "--insecure if that is what you want."
        )
    if bool(config.ssl_certfile) != bool(config.ssl_keyfile):
        raise ConfigError("HTTPS needs both --ssl-certfile and --ssl-keyfile.")
    for file in (config.ssl_certfile, config.ssl_keyfile):
        if file and not Path(file).is_file():
            raise ConfigError(f"{file} is no file: --ssl-certfile and --ssl-keyfile must name PEM files.")
    return config


def bind(config: ServerConfig) -> socket.socket:
    """A socket on the configured address, which refuses connections until it is served; raises ConfigError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"--host {config.host} is no address of this machine: {error.strerror}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Cannot listen on {config.host}:{config.port}: {error.strerror}. Choose another --port (0: a free one)."
        ) from None
    return listener


async def serve(
    llm: AsyncLLM,
    config: ServerConfig,
    served_names: Sequence[str],
    listener: socket.socket,
    *,
    announce: Callable[[str], None] = lambda line: print(line, flush=True),
) -> int:
    """Serve until a signal, or until cancelled; 0 after a clean end. ``announce`` gets one line when it is ready."""
    server = Server(create_app(llm, config, served_names), config, announce)
    with heard(server.stop):
        await server.serve([listener])
    return 0


class Server(uvicorn.Server):
    """uvicorn's server with our signals. Lives on the loop that serves."""

    def __init__(self, app: Starlette, config: ServerConfig, announce: Callable[[str], None]) -> None:
        super().__init__(_uvicorn_config(app, config))
        self._service: Service = app.state.service
        self._announce = announce
        self._draining: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # ours are heard by serve()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets
        host, port = sockets[0].getsockname()[:2]
        scheme = "https" if self.config.is_ssl else "http"
        shown = f"[{host}]" if ":" in host else host
        self._announce(f"Quire serves {self._service.served_names[0]} at {scheme}://{shown}:{port}")

    async def main_loop(self) -> None:
        """Until the end, of which this is told; uvicorn's own looks for it ten times a second. A tick is a new Date."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), _TICK_S)

    def stop(self) -> None:
        """Drain; called again, end at once."""
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain())
            return
        self.force_exit = True
        self._end()
        self._service.abort_all()
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()

    async def _drain(self) -> None:
        service, timeout_s = self._service, self._service.config.shutdown_timeout_s
        service.is_draining = True
        if service.running:
            log.info("%d requests are running and have %g s to end", len(service.running), timeout_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(service.idle(), timeout_s)
        if service.running:
            log.warning("%d requests are aborted", len(service.running))
            service.abort_all()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(service.idle(), _LAST_WORDS_S)
        self._end()

    def _end(self) -> None:
        self.should_exit = True
        self._over.set()


def _uvicorn_config(app: Starlette, config: ServerConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=timed(config.header_timeout_s),
        h11_max_incomplete_event_size=config.max_header_bytes,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        root_path=config.root_path,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_LAST_WORDS_S,
        ssl_keyfile=config.ssl_keyfile,
        ssl_certfile=config.ssl_certfile,
    )
