"""Thousands of requests that schemathesis makes of /openapi.json, right ones and wrong ones: the document is true."""

import json
import re
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

HERE = Path(__file__).parent
UNCHECKED = "positive_data_acceptance"
"""What follows from several fields, or from the model's context, is not in a JSON schema: best_of not below n, results
of tools for calls there were, a prompt of at most so many tokens."""
MAX_GROWTH_MIB = 48
"""Of one process. Answers are kept (--max-stored-responses), and so are grammars, up to their limits."""
MAX_MORE_DESCRIPTORS = 8
"""Connections that their client has just left."""
MAX_MORE_THREADS = 8
"""Pools grow to their size when they are first all needed."""


def test_openapi(
    serving: Callable[..., AbstractContextManager[Any]],
    tiny_checkpoint: Callable[[str], Path],
    python_with: Callable[[str], Path],
    run: Callable[..., str],
) -> None:
    """No 5xx, no answer and no status that the schema does not tell of, no wrong request that is taken; and no leak."""
    command = [python_with("schemathesis").parent / "schemathesis", "run", "--phases=coverage,fuzzing"]
    command += [f"--exclude-checks={UNCHECKED}", "--request-timeout=60", "--seed=1", "--warnings=off"]
    hooks = {"SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(HERE)}

    with serving(str(tiny_checkpoint("llama")), "--max-model-len", "128", "--served-model-name", "quire") as server:
        schema = f"{server.url}/openapi.json?all=true"
        run(*command, "--max-examples=5", schema, timeout_s=600, **hooks)
        before = _held(server.pid)
        said = run(*command, "--max-examples=40", schema, timeout_s=1200, **hooks)
        found = re.search(r"(\d+) generated", said)
        assert found is not None and int(found.group(1)) > 5000, said

        assert _get(f"{server.url}/health") == {"status": "ok"}
        assert _get(f"{server.url}/load") == {"server_load": 0, "num_running": 0, "num_waiting": 0}
        (state,) = _get(f"{server.url}/server_info")["internal_states"]
        assert state["token_usage"] == 0
        assert not any(slot["is_processing"] for slot in _get(f"{server.url}/slots"))
        # The engine checks its KV accounting whenever it comes to rest, and would be dead. Nothing holds a prefix.
        reset = urllib.request.Request(f"{server.url}/reset_prefix_cache", method="POST")
        with urllib.request.urlopen(reset, timeout=30) as answer:
            assert answer.status == 200
        assert _get(f"{server.url}/health_generate") == {"status": "ok"}
        after = _held(server.pid)
        assert {server.pid} < before.keys() & after.keys()
        for one in before.keys() & after.keys():  # the process that tries grammars is a new one now and then
            held = after[one]
            assert held.rss_mib - before[one].rss_mib < MAX_GROWTH_MIB, (one, held, before[one])
            assert held.num_descriptors - before[one].num_descriptors <= MAX_MORE_DESCRIPTORS, (one, held, before[one])
            assert held.num_threads - before[one].num_threads <= MAX_MORE_THREADS, (one, held, before[one])


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


class Held(NamedTuple):
    rss_mib: float
    num_descriptors: int
    num_threads: int


def _held(pid: int) -> dict[int, Held]:
    """What each of the server's processes holds, by its id."""
    process = psutil.Process(pid)
    return {
        one.pid: Held(one.memory_info().rss / 2**20, one.num_fds(), one.num_threads())
        for one in (process, *process.children(recursive=True))
    }
