"""Every engine: which program runs it, on which form of a model, and how its server is started.

A contender is an engine on one form of the weights. Each engine is run the way that is fastest for it on this work, as
far as its documents and trials tell; README.md says what was chosen and why.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.driver import Driver
from benchmarks.peers.install import llama_cpp_version, python_of
from benchmarks.peers.models import ROOT, Model

ENGINES = ("quire", "llama.cpp", "llama-bench", "openvino", "vllm", "transformers")
WEIGHTS = ("bf16", "8bit", "4bit")

PEER_OF = {"llama-bench": "llama.cpp"}
"""Whose installation an engine uses, where that is not its own."""

FORMS: dict[str, dict[str, tuple[str, ...]]] = {
    "bf16": {
        "quire": ("hf-bf16",), "llama.cpp": ("BF16",), "llama-bench": ("BF16",), "openvino": ("ov-bf16",),
        "vllm": ("hf-bf16",), "transformers": ("hf-bf16",),
    },
    "8bit": {
        "quire": ("Q8_0",), "llama.cpp": ("Q8_0",), "llama-bench": ("Q8_0",), "openvino": ("ov-int8",),
        "vllm": ("hf-int8",),
    },
    "4bit": {
        "quire": ("Q4_1", "Q4_0"), "llama.cpp": ("Q4_1", "Q4_0"), "llama-bench": ("Q4_1", "Q4_0"),
        "openvino": ("ov-int4",),
    },
}  # fmt: skip
"""Weights -> engine -> the forms of models.Models it runs."""


@dataclass(frozen=True)
class Contender:
    engine: str
    form: str

    @property
    def title(self) -> str:
        return f"{self.engine} {self.form.split('-')[-1]}"


def contenders(model: Model, weights: str, engines: list[str]) -> list[Contender]:
    """Who runs ``model`` with ``weights``; Quire first."""
    if model.name == "gemma3":
        if weights != "4bit":
            return []
        runs = [engine for engine in engines if engine in ("quire", "llama.cpp", "llama-bench")]
        return [Contender(engine, "Q4_K_M") for engine in runs]
    found = [Contender(engine, form) for engine in engines for form in FORMS[weights].get(engine, ())]
    if model.name == "llama-1b":
        found = [one for one in found if one.engine != "transformers"]  # hours, and never near the others
    return found


@dataclass(frozen=True)
class Launcher:
    """Starts contenders: offline behind a driver, or as a server. ``kv_bytes`` is the KV cache each may have."""

    folder: Path
    quire_python: Path
    threads: int
    kv_bytes: int = 2 << 30
    max_len: int = 2048

    def driver(self, contender: Contender, model: Path, log: Path) -> Driver:
        """Raises driver.DriverError."""
        module = contender.engine.replace(".", "_").replace("-", "_")
        command = [str(self._python(contender.engine)), "-m", f"benchmarks.peers.drivers.{module}"]
        command += ["--model", str(model), "--threads", str(self.threads)]
        command += ["--kv-bytes", str(self.kv_bytes), "--max-len", str(self.max_len)]
        return Driver(command, self.environment(contender.engine), ROOT, log)

    def serve(self, contender: Contender, model: Path, port: int) -> list[str] | None:
        """The command that serves ``model`` on ``port``; None for an engine that brings no server."""
        python = self._python(contender.engine)
        if contender.engine == "quire":
            return [
                str(python), "-m", "quire", "serve", str(model), "--port", str(port), "--dtype", "bfloat16",
                "--num-threads", str(self.threads), "--kv-cache-memory-bytes", str(self.kv_bytes),
                "--max-model-len", str(self.max_len), "--served-model-name", "model",
            ]  # fmt: skip
        if contender.engine == "llama.cpp":
            # As many slots as the most clients, each with room for the longest request.
            return [
                str(self._llama("llama-server")), "-m", str(model), "--port", str(port), "-t", str(self.threads),
                "-np", "16", "-c", str(16 * 512), "--offline", "--alias", "model",
            ]  # fmt: skip
        if contender.engine == "vllm":
            # Its command looks for a package named vllm, which the CPU build is not.
            return [
                str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
                "--port", str(port), "--dtype", "bfloat16",
                "--max-model-len", str(self.max_len), "--kv-cache-memory-bytes", str(self.kv_bytes),
                "--max-num-seqs", "64", "--served-model-name", "model", "--disable-uvicorn-access-log",
            ]  # fmt: skip
        return None

    def environment(self, engine: str) -> dict[str, str]:
        env = {"OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if engine == "quire":
            env = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}
        if engine in ("llama.cpp", "llama-bench"):
            env |= {
                "LLAMA_SERVER": str(self._llama("llama-server")),
                "LLAMA_BENCH": str(self._llama("llama-bench")),
                "PEER_VERSION": llama_cpp_version(self.folder),
            }
        if engine == "vllm":
            # It would leave a core to its server and its other processes: all engines may use all threads asked for.
            cores = sorted(os.sched_getaffinity(0))[: self.threads]
            env |= {
                "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
                "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
                "VLLM_CPU_KVCACHE_SPACE": str(max(1, self.kv_bytes >> 30)),
                "VLLM_NO_USAGE_STATS": "1",
                "DO_NOT_TRACK": "1",
            }
        return env

    def _python(self, engine: str) -> Path:
        if engine == "quire":
            return self.quire_python
        # llama.cpp's drivers need no more than an interpreter, and its environment has one.
        return python_of(self.folder, PEER_OF.get(engine, engine))

    def _llama(self, tool: str) -> Path:
        return self.folder / "llama.cpp" / "build" / "bin" / tool
