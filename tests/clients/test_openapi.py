"""Thousands of requests that schemathesis makes of /openapi.json, right ones and wrong ones: the document is true."""

import json
import re
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

HERE = Path(__file__).parent
UNCHECKED = "positive_data_acceptance"
"""What follows from several fields, or from the model's context, is not in a JSON schema: best_of not below n, results
of tools for calls there were, a prompt of at most so many tokens."""
MAX_GROWTH_MIB = 48


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
        before = _rss_mib(server.pid)
        said = run(*command, "--max-examples=100", schema, timeout_s=1200, **hooks)
        found = re.search(r"(\d+) generated", said)
        assert found is not None and int(found.group(1)) > 5000, said

        assert _get(f"{server.url}/health") == {"status": "ok"}
        assert _get(f"{server.url}/load") == {"server_load": 0, "num_running": 0, "num_waiting": 0}
        (state,) = _get(f"{server.url}/server_info")["internal_states"]
        assert state["token_usage"] == 0
        assert _rss_mib(server.pid) - before < MAX_GROWTH_MIB


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def _rss_mib(pid: int) -> float:
    """Of the server's processes together."""
    process = psutil.Process(pid)
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 2**20
