"""A stand-in for a server: a model that answers with its question in capitals."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


def events(text: str, wrap: Any) -> bytes:
    """A stream of one letter an event."""
    lines = [f"data: {json.dumps({'choices': [wrap(letter)]})}\n\n" for letter in text]
    return (": keep-alive\n\n" + "".join(lines) + "data: [DONE]\n\n").encode()


class Handler(BaseHTTPRequestHandler):
    """The OpenAI API of one model called ``loud``."""

    protocol_version = "HTTP/1.1"
    requests: list[tuple[str, dict[str, str], Any]]

    def do_GET(self) -> None:
        self.requests.append((self.path, dict(self.headers), None))
        if self.path == "/v1/models":
            self.answer(200, json.dumps({"data": [{"id": "loud"}, {"id": "quiet"}]}).encode())
        else:
            self.answer(404, b'{"error": {"message": "There is no such path."}}')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append((self.path, dict(self.headers), body))
        if body["model"] == "broken":
            self.answer(200, b'data: {"choices": []}\n\n')
        elif body["model"] == "failing":
            self.answer(200, b'data: {"error": {"message": "The engine died."}}\n\n')
        elif body["model"] not in ("loud", "quiet"):
            self.answer(404, b'{"error": {"message": "There is no model of that name."}}')
        elif self.path == "/v1/chat/completions":
            text = body["messages"][-1]["content"].upper()
            self.answer(200, events(text, lambda letter: {"delta": {"content": letter}}))
        else:
            self.answer(200, events(body["prompt"].upper(), lambda letter: {"text": letter}))

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Tests are silent."""


class Server:
    """Where it listens, and what it was asked."""

    def __init__(self, url: str, requests: list[tuple[str, dict[str, str], Any]]) -> None:
        self.url = url
        self.requests = requests


@pytest.fixture(autouse=True)
def logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands set up logging for their whole process; a test's process has more than one."""
    monkeypatch.setenv("QUIRE_LOG_LEVEL", "info")
    loggers = [logging.getLogger(), logging.getLogger("quire")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture
def server() -> Iterator[Server]:
    handler = type("Handler", (Handler,), {"requests": []})
    listener = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Server(f"http://127.0.0.1:{listener.server_port}", handler.requests)
    listener.shutdown()
    thread.join()
    listener.server_close()
