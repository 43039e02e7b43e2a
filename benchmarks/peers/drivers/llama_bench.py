"""llama.cpp's own bench tool, beside its server: what its kernels do with no server around them.

It makes up its tokens itself and reports tokens per second, from which the seconds are made that the same request would
have taken. Only W1 and W3 can be asked: it decodes one stream, and reads one prompt at a time.
"""

import json
import os
import subprocess
from typing import Any

from benchmarks.peers.drivers.protocol import Options, Tokens, claim_stdout, options, serve


class LlamaBench:
    def __init__(self, given: Options) -> None:
        self.version = os.environ["PEER_VERSION"]
        self.settings = "llama-bench, decoding measured behind a prompt as long as the workload's"
        self._command = [os.environ["LLAMA_BENCH"], "-m", given.model, "-t", str(given.threads), "-o", "json"]
        self._reported_s = 0.0

    def generate(self, prompts: Tokens, output_len: int) -> Tokens:
        length = len(prompts[0])
        seconds = len(prompts) * length / self._bench("-p", str(length), "-n", "0")
        if output_len > 1:
            seconds += (output_len - 1) / self._bench("-p", "0", "-n", str(output_len), "-d", str(length))
        self._reported_s = seconds
        return [[0] * output_len for _ in prompts]

    def reported_s(self) -> float:
        """The seconds that the last request took by the tool's own clock."""
        return self._reported_s

    def _bench(self, *what: str) -> float:
        """Tokens per second, of one repetition after a warm-up."""
        command = [*self._command, "-r", "1", *what]
        found: Any = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        rate: float = found[0]["avg_ts"]
        return rate


if __name__ == "__main__":
    pipe = claim_stdout()
    serve(LlamaBench(options()), pipe)
