"""llama.cpp, by its server: the only part of it that batches requests. This process starts it and is its client.

Nothing is lost by HTTP here: answers come whole, as token ids, and connecting takes a fraction of a millisecond.
"""

import concurrent.futures
import http.client
import json
import os
import socket
import subprocess
import time
from typing import Any

from benchmarks.peers.driver import die_with_parent
from benchmarks.peers.drivers.protocol import Options, Tokens, claim_stdout, options, serve

NUM_SLOTS = 16
SLOT_LEN = 1152


class LlamaCpp:
    def __init__(self, given: Options) -> None:
        self.version = os.environ["PEER_VERSION"]
        self.settings = f"llama-server, {NUM_SLOTS} slots, greedy sampler only"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        command = [os.environ["LLAMA_SERVER"], "-m", given.model, "--port", str(self._port), "-t", str(given.threads)]
        command += ["-np", str(NUM_SLOTS), "-c", str(NUM_SLOTS * SLOT_LEN), "--offline"]
        self._server = subprocess.Popen(command, stdout=2, preexec_fn=die_with_parent)
        self._pool = concurrent.futures.ThreadPoolExecutor(64)
        self._wait()

    def generate(self, prompts: Tokens, output_len: int) -> Tokens:
        return list(self._pool.map(lambda prompt: self._complete(prompt, output_len), prompts))

    def _complete(self, prompt: list[int], output_len: int) -> list[int]:
        answer = self._ask("POST", "/completion", {
            "prompt": prompt, "n_predict": output_len, "ignore_eos": True, "temperature": 0, "samplers": ["top_k"],
            "top_k": 1, "cache_prompt": True, "return_tokens": True,
        })  # fmt: skip
        tokens: list[int] = answer["tokens"]
        return tokens

    def _ask(self, method: str, path: str, body: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {text[:500]!r}")
        return json.loads(text)

    def _wait(self) -> None:
        while True:
            if self._server.poll() is not None:
                raise RuntimeError(f"llama-server ended with code {self._server.returncode}")
            try:
                self._ask("GET", "/health", None)
                return
            except (OSError, RuntimeError, http.client.HTTPException):
                time.sleep(0.01)

    def close(self) -> None:
        self._server.terminate()
        self._server.wait(30)


if __name__ == "__main__":
    pipe = claim_stdout()
    engine = LlamaCpp(options())
    try:
        serve(engine, pipe)
    finally:
        engine.close()
