"""``quire chat``: a conversation in the terminal, one question from ``-q`` or from a pipe, answers as they come."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from quire.cli.api import Api
from quire.cli.talk import is_piped, open_api, read_arguments, sampling, show
from quire.core.errors import ConfigError, QuireError

_ABOUT = "Talk to a model: on a running server if there is one, else on an engine of its own."
_HELP = "/system TEXT sets the system prompt, /clear forgets the conversation, /quit ends; Ctrl-C stops an answer."


def main(argv: Sequence[str]) -> int:
    """Converse until the input ends; returns the exit code."""
    reading = read_arguments("quire chat", _ABOUT, argv, "ask this and end", _add_options)
    options = vars(reading.options)
    question = options.get("quick")
    if question is None and is_piped():
        question = sys.stdin.read()
    if question is not None and not question.strip():
        raise ConfigError("the question is empty: put it after -q, or into standard input.")
    api, door = open_api(reading)
    try:
        conversation = Conversation(api, options.get("system_prompt"), sampling(reading))
        if question is not None:
            conversation.ask(question.strip())
        else:
            _converse(conversation)
    finally:
        door.close()
    return 0


class Conversation:
    """The messages so far, and the model that adds to them."""

    def __init__(self, api: Api, system_prompt: str | None, sampling: dict[str, Any]) -> None:
        self._api = api
        self._system_prompt = system_prompt
        self._sampling = sampling
        self._turns: list[dict[str, str]] = []

    @property
    def messages(self) -> list[dict[str, str]]:
        """As the API takes them."""
        system = [{"role": "system", "content": self._system_prompt}] if self._system_prompt else []
        return [*system, *self._turns]

    def ask(self, question: str) -> None:
        """Print the answer as it comes, and remember both; an answer that is cut short is not remembered."""
        self._turns.append({"role": "user", "content": question})
        try:
            answer = show(self._api.chat(self.messages, self._sampling))
        except BaseException:
            self._turns.pop()
            raise
        self._turns.append({"role": "assistant", "content": answer})

    def obey(self, command: str) -> str | None:
        """Carry out a line that begins with a slash; the reply, or None to end."""
        name, _, rest = command.partition(" ")
        match name:
            case "/quit" | "/exit" | "/bye":
                return None
            case "/clear":
                self._turns.clear()
                return "(forgotten)"
            case "/system":
                self._system_prompt = rest.strip() or None
                return "(system prompt set)" if self._system_prompt else "(no system prompt)"
            case "/help":
                return _HELP
        return f"There is no {name}. {_HELP}"


def _converse(conversation: Conversation) -> None:
    import readline  # noqa: F401  # line editing for input()

    print(_HELP)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        if line.startswith("/"):
            reply = conversation.obey(line)
            if reply is None:
                return
            print(reply)
        elif line:
            try:
                conversation.ask(line)
            except KeyboardInterrupt:
                print("(stopped)")
            except QuireError as error:
                print(f"({error.message})")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system-prompt", metavar="TEXT", help="what the model is told before the conversation")
