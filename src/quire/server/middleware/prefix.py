"""The prefix that a proxy in front strips, where none has: those who reach the server directly may write it too."""

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send


class Prefix:
    """Takes paths below ``root_path`` for the same ones without it.

    uvicorn has put ``root_path`` before whatever was asked for, so such a path begins with it twice. Where paths of our
    own begin with it, they are what was meant.
    """

    def __init__(self, app: ASGIApp, root_path: str, paths: Iterable[str]) -> None:
        self._app = app
        self._length = len(root_path)
        is_ours = any(path.startswith(f"{root_path}/") for path in paths)
        self._twice = None if is_ours else f"{root_path}{root_path}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._twice is not None and scope["type"] == "http" and scope["path"].startswith(self._twice):
            scope["path"] = scope["path"][self._length :]
        await self._app(scope, receive, send)
