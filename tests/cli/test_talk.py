"""Questions over HTTP, conversations, and what is printed."""

import io
from collections.abc import Iterator
from typing import Any

import pytest

from quire.cli.api import Api, served_models
from quire.cli.chat import Conversation
from quire.cli.door import HttpDoor
from quire.cli.main import main
from quire.core.errors import QuireError


class Echo:
    """An Api that says what it was told, or fails half way."""

    def __init__(self, fails: BaseException | None = None) -> None:
        self.fails = fails
        self.heard: list[list[dict[str, str]]] = []

    def chat(self, messages: list[dict[str, str]], sampling: dict[str, Any]) -> Iterator[str]:
        self.heard.append(messages)
        yield "you said "
        if self.fails is not None:
            raise self.fails
        yield messages[-1]["content"]


def test_models_and_answers(server: Any) -> None:
    door = HttpDoor(server.url)
    assert served_models(door) == ["loud", "quiet"]
    api = Api(door)
    assert api.model == "loud"
    messages = [{"role": "user", "content": "hé"}]
    assert "".join(api.chat(messages, {"temperature": 0})) == "HÉ"
    assert "".join(api.complete("x\ny", {})) == "X\nY"
    assert server.requests[-2][2] == {"model": "loud", "messages": messages, "stream": True, "temperature": 0}


def test_a_url_may_end_in_v1_and_keys_are_sent(server: Any) -> None:
    assert "".join(Api(HttpDoor(server.url + "/v1/", "secret"), "quiet").complete("a", {})) == "A"
    path, headers, _ = server.requests[-1]
    assert path == "/v1/completions" and headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nobody", "answered 404: There is no model of that name."),
        ("broken", "broke off before its end"),
        ("failing", "The engine died."),
    ],
)
def test_refusals_and_broken_answers_are_errors(server: Any, model: str, words: str) -> None:
    with pytest.raises(QuireError, match=words):
        list(Api(HttpDoor(server.url), model).complete("a", {}))


class Wire:
    """A door whose server sends these bytes."""

    name = "wire"

    def __init__(self, sent: bytes) -> None:
        self.sent = sent

    def get(self, path: str) -> Any:
        return {"data": [{"id": "m"}]}

    def post(self, path: str, body: dict[str, Any]) -> Iterator[bytes]:
        yield self.sent

    def close(self) -> None:
        pass


def test_what_other_servers_leave_empty_is_no_text() -> None:
    sent = [b'{"choices": null}', b'{"error": null, "choices": [{"delta": null, "text": null}]}', b"", b"[DONE]"]
    door = Wire(b"".join(b"data: %s\n\n" % data for data in sent))
    assert "".join(Api(door).chat([], {})) == "".join(Api(door).complete("", {})) == ""


@pytest.mark.parametrize(
    "sent",
    [
        b"5",
        b"[1]",
        b'{"choices": [5]}',
        b'{"choices": [{"text": 5}]}',
        b'{"choices": [{"text": "\xff"}]}',
        b'{"x": ' + b"[" * 9000,
    ],
)
def test_what_is_no_event_is_an_error(sent: bytes) -> None:
    with pytest.raises(QuireError, match="an event of the stream cannot be read"):
        list(Api(Wire(b"data: " + sent + b"\n\n")).complete("", {}))
    with pytest.raises(QuireError, match="broke off: boom"):
        list(Api(Wire(b'data: {"error": {"message": "boom"}}\n\n')).chat([], {}))


def test_a_key_that_cannot_be_sent_is_an_error(server: Any) -> None:
    with pytest.raises(QuireError, match="cannot be asked"):
        served_models(HttpDoor(server.url, "a\nb"))


def test_no_server_is_an_error() -> None:
    with pytest.raises(QuireError, match="cannot be reached"):
        served_models(HttpDoor("http://127.0.0.1:9"))


def test_one_question(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["chat", "--url", server.url, "-q", "hello", "--system-prompt", "Be loud.", "--max-tokens", "5"]
    assert main(argv) == 0
    assert capsys.readouterr().out == "HELLO\n"
    body = server.requests[-1][2]
    assert body["messages"][0] == {"role": "system", "content": "Be loud."}
    assert body["max_tokens"] == 5


def test_a_question_from_a_pipe(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("two\nlines\n"))
    assert main(["chat", "--url", server.url]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("to be continued"))
    assert main(["complete", "--url", server.url, "--model-name", "quiet"]) == 0
    assert capsys.readouterr().out == "TWO\nLINES\nTO BE CONTINUED\n"
    assert server.requests[-1][2]["max_tokens"] == 128


def test_a_conversation_remembers() -> None:
    echo = Echo()
    conversation = Conversation(echo, "Be kind.", {})  # type: ignore[arg-type]
    conversation.ask("a")
    conversation.ask("b")
    assert [m["content"] for m in echo.heard[-1]] == ["Be kind.", "a", "you said a", "b"]
    assert conversation.obey("/clear") == "(forgotten)"
    assert conversation.obey("/system Be brief.") == "(system prompt set)"
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]
    assert conversation.obey("/system") == "(no system prompt)"
    assert conversation.messages == []
    assert "/quit" in (conversation.obey("/what") or "")
    assert conversation.obey("/quit") is None


@pytest.mark.parametrize("error", [KeyboardInterrupt(), QuireError("gone")])
def test_an_answer_cut_short_is_not_remembered(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    conversation = Conversation(Echo(error), None, {})  # type: ignore[arg-type]
    with pytest.raises(type(error)):
        conversation.ask("a")
    assert conversation.messages == []
    assert capsys.readouterr().out == "you said \n"


def test_typing_until_the_end_of_input(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["hi", "", "/clear", "/quit", "never read"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    monkeypatch.setattr("quire.cli.chat.is_piped", lambda: False)
    assert main(["chat", "--url", server.url]) == 0
    assert "HI\n(forgotten)\n" in capsys.readouterr().out
    assert next(lines) == "never read"
