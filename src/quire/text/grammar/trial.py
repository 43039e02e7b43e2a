"""Where a grammar is compiled for the first time: in a process that can be ended, since native code cannot be.

A ``Trial`` owns a process that knows the vocabulary. For each grammar that forks; the child has so much processor time
and so much memory, and when it has used them up the system ends it, and nothing else. Only lines of JSON go in and out.
Law: an answer comes for every grammar, within a few seconds, and no grammar changes how the next one fares.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any

import msgspec
import numpy as np

from quire.core.errors import GenerationFailed
from quire.core.readable import wait_readable
from quire.text.grammar.limits import MAX_TRIAL_BYTES, MAX_TRIAL_CPU_S, parser_limits
from quire.text.grammar.vocabulary import Vocabulary

_PATIENCE_S = 60.0
"""For an answer, however busy the machine is; the processor time is limited far below."""

_STEPS = 4
"""Tokens of an answer that a trial goes through."""


class Verdict(msgspec.Struct, frozen=True):
    """What came of a grammar. ``error`` is empty if it can be run, and ``warnings`` say what of it is not enforced."""

    error: str = ""
    warnings: tuple[str, ...] = ()


class Trial:
    """Tries grammars, one at a time; any thread may ask. The process starts with the first, and ends with this one.

    ``vocabulary`` is called once, when there is the first grammar.
    """

    def __init__(self, vocabulary: Callable[[], Vocabulary]) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def verdict(self, grammar: str) -> Verdict:
        """Compile a grammar and compute its first mask. Raises GenerationFailed if the process cannot be had."""
        with self._lock:
            try:
                process = self._process or self._start()
                return msgspec.json.decode(_ask(process, {"grammar": grammar}), type=Verdict)
            except (OSError, EOFError, TimeoutError, msgspec.DecodeError) as error:
                self._end()
                raise GenerationFailed(f"The grammar could not be checked: {error or type(error).__name__}.") from None

    def close(self) -> None:
        with self._lock:
            self._end()

    def _start(self) -> "subprocess.Popen[bytes]":
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "quire.text.grammar.trial"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # a Ctrl-C is for us
        )
        words = self._vocabulary()
        _ask(
            process,
            {
                "tokens": [token.decode("latin-1") for token in words.tokens],
                "special": words.special_token_ids,
                "eos": words.eos_token_ids,
            },
        )
        return process

    def _end(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _ask(process: "subprocess.Popen[bytes]", question: dict[str, Any]) -> bytes:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(msgspec.json.encode(question) + b"\n")
    process.stdin.flush()
    if not wait_readable(process.stdout, _PATIENCE_S):
        raise TimeoutError(f"no answer within {_PATIENCE_S:g} s")
    line = process.stdout.readline()
    if not line:
        raise EOFError("the process that checks grammars has ended")
    return line


# --- in the process -------------------------------------------------------------------------------------------------


def main() -> None:
    """Read the vocabulary, then try grammars until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, answers = sys.stdin.buffer, sys.stdout.buffer
    words = json.loads(source.readline())
    tokens = [token.encode("latin-1") for token in words["tokens"]]
    tokenizer = Vocabulary(tokens, words["special"], words["eos"])
    tokenizer("a")  # what it makes when it is first used, the children have too
    vocabulary = tokenizer.build()
    _answer(answers, Verdict())
    for line in source:
        child = os.fork()
        if child == 0:
            _limit()
            _answer(answers, _try(vocabulary, json.loads(line)["grammar"]))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0:
            _answer(answers, Verdict(_post_mortem(status)))


def _limit() -> None:
    """Let the system end this process when it takes too long, or too much."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, MAX_TRIAL_CPU_S)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # where the system does not tell, or does not limit
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MAX_TRIAL_BYTES, used + MAX_TRIAL_BYTES))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the last words of native code are not for the log


def _try(vocabulary: Any, grammar: str) -> Verdict:
    from llguidance import LLMatcher

    try:
        matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=parser_limits())
        _walk(matcher, vocabulary.eos_tokens)
        return Verdict(matcher.get_error(), tuple(matcher.get_grammar_warnings()))
    except MemoryError:
        return Verdict(TOO_MUCH_MEMORY)


def _walk(matcher: Any, eos_token_ids: Sequence[int]) -> None:
    """A few steps into the grammar: much of what it costs is met only when it is used."""
    for _ in range(_STEPS):
        if matcher.is_error() or matcher.is_stopped():
            return
        mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little"))
        text = allowed[~np.isin(allowed, eos_token_ids)]
        if matcher.is_error() or not len(text):
            return
        matcher.consume_token(int(text[0]))


TOO_LONG = f"it takes more than {MAX_TRIAL_CPU_S:g} s of processor time to compile"
TOO_MUCH_MEMORY = f"it takes more than {MAX_TRIAL_BYTES >> 20} MiB to compile"


def _post_mortem(status: int) -> str:
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
        return TOO_LONG
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (
        signal.SIGABRT,
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGKILL,
    ):
        return TOO_MUCH_MEMORY
    return "it cannot be compiled"


def _answer(answers: IO[bytes], verdict: Verdict) -> None:
    answers.write(msgspec.json.encode(verdict) + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
