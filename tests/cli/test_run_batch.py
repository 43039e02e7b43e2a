"""Batches against a small application: order, failures, and a file that appears only when it is complete."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from quire.cli import run_batch
from quire.cli.asgi import call
from quire.cli.main import main
from quire.cli.run_batch import read_lines, write_answers


class Bar:
    def __init__(self) -> None:
        self.n = 0

    def update(self, n: int) -> None:
        self.n += n


class App:
    """Answers with its request; later requests are answered sooner. ``full`` prompts are refused."""

    def __init__(self) -> None:
        self.num_waiting = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = json.loads((await receive())["body"])
        for _ in range(20 - body.get("n", 0)):
            await asyncio.sleep(0)
        status = 400 if body.get("prompt") == "full" else 200
        headers = [(b"x-request-id", b"r-1"), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"path": "%s"' % scope["path"].encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b', "n": %d}' % body.get("n", 0)})


def line(custom_id: str, url: str = "/v1/completions", **body: Any) -> bytes:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).encode()


def answers(lines: list[bytes], target: Path) -> tuple[int, list[dict[str, Any]]]:
    source = target.with_name("in.jsonl")
    source.write_bytes(b"\n".join(lines))
    requests = read_lines(source)
    source.unlink()
    num_failed = asyncio.run(write_answers(App(), requests, target, Bar()))
    return num_failed, [json.loads(text) for text in target.read_text().splitlines()]


def test_answers_come_in_the_order_of_the_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_batch, "_IN_FLIGHT", 4)
    lines = [line(f"id-{n}", n=n) for n in range(12)]
    num_failed, found = answers(lines, tmp_path / "out.jsonl")
    assert num_failed == 0
    assert [(a["custom_id"], a["response"]["body"]["n"]) for a in found] == [(f"id-{n}", n) for n in range(12)]
    assert found[0]["response"] == {
        "status_code": 200,
        "request_id": "r-1",
        "body": {"path": "/v1/completions", "n": 0},
    }
    assert found[0]["error"] is None and len({a["id"] for a in found}) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_bad_line_stops_nothing(tmp_path: Path) -> None:
    lines = [
        b"{not json",
        line("a", url="/v1/embeddings"),
        line("b", prompt="full"),
        line("c", stream=True),
        line("d", url="/v1/chat/completions"),
        line("d"),
        line("e", url="/v1/responses", background=True),
        line("f", url="/v1/responses"),
    ]
    num_failed, found = answers(lines, tmp_path / "out.jsonl")
    assert num_failed == 6
    assert [a["custom_id"] for a in found] == [None, "a", "b", "c", "d", "d", "e", "f"]
    assert "line 1" in found[0]["error"]["message"] and found[0]["error"]["code"] == "invalid_line"
    assert "$.url" in found[1]["error"]["message"]
    assert found[2]["response"]["status_code"] == 400 and found[2]["error"] is None
    assert "$.body.stream" in found[3]["error"]["message"]
    assert found[4]["response"]["body"]["path"] == "/v1/chat/completions"
    assert "custom_id" in found[5]["error"]["message"]
    assert "$.body.background" in found[6]["error"]["message"]
    assert found[7]["response"]["body"]["path"] == "/v1/responses"


@pytest.mark.parametrize("broken", [b"\xff", b"[" * 100_000 + b"]" * 100_000], ids=["not UTF-8", "too deep"])
def test_a_line_that_nobody_can_read_stops_nothing(tmp_path: Path, broken: bytes) -> None:
    bad = line("a", prompt="?").replace(b'"?"', broken)
    num_failed, found = answers([bad, b"", bad, line("b")], tmp_path / "out.jsonl")
    assert num_failed == 2
    assert [a["error"] and a["error"]["message"][:7] for a in found] == ["line 1:", "line 3:", None]


def test_an_interrupted_batch_leaves_no_output_but_a_part(tmp_path: Path) -> None:
    class Stop(Bar):
        def update(self, n: int) -> None:
            super().update(n)
            if self.n == 2:
                raise KeyboardInterrupt

    target = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(write_answers(App(), {n: line(str(n)) for n in range(5)}, target, Stop()))
    assert not target.exists()
    assert len((tmp_path / "out.jsonl.part").read_text().splitlines()) == 2


@pytest.mark.parametrize(("source", "words"), [("nothing.jsonl", "No such file"), ("empty.jsonl", "holds no requests")])
def test_files_that_cannot_be_used(tmp_path: Path, source: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    assert main(["run-batch", "-i", str(tmp_path / source), "-o", str(tmp_path / "out.jsonl")]) == 2
    assert words in capsys.readouterr().err


def test_hanging_up_cancels_the_application() -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        try:
            await receive()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def hang_up() -> None:
        task = asyncio.create_task(call(app, "POST", "/x", b"{}"))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(hang_up())
    assert ended == ["cancelled"]
