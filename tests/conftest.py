"""Fixtures for every room: tiny random checkpoints, laid out as the hub lays out real ones, and real servers.

``tiny_checkpoint(name)`` is the folder of one, made once a session: config.json, model.safetensors (float32),
tokenizer.json (byte-level BPE of the model's vocabulary), tokenizer_config.json with a chat template, and
generation_config.json. Weights are wide enough that greedy outputs wander instead of repeating one token.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import pytest

from quire.core import threads
from quire.kernels.cpu import library

threads.settle()  # before anything imports torch

VOCAB_SIZE = 384
SPECIAL_TOKENS = ("<|pad|>", "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
PAD, BEGIN, END = range(3)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

CORPUS = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "Many voices, one book of pages: a quire is a gathering of leaves, and it sounds like a choir.",
    "What is the capital of France? The capital of France is Paris.",
    "def add(a, b):\n    return a + b\n",
    "Grüße aus Köln, 東京 und Москва — naïve café, 12345 + 67890.",
)

SMALL: dict[str, Any] = dict(
    vocab_size=VOCAB_SIZE,
    hidden_size=96,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=512,
    pad_token_id=PAD,
    bos_token_id=BEGIN,
    eos_token_id=END,
)

TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama_rope3": (
        "Llama",
        dict(
            tie_word_embeddings=True,
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=10_000.0,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        ),
    ),
    "mistral": ("Mistral", dict(sliding_window=40)),
    "qwen2": ("Qwen2", dict(use_sliding_window=True, sliding_window=24, max_window_layers=2)),
    "qwen3": ("Qwen3", dict(tie_word_embeddings=True)),
    "qwen3_moe": (
        "Qwen3Moe",
        dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=48, norm_topk_prob=True, mlp_only_layers=[1]),
    ),
    "gemma3": (
        "Gemma3Text",
        dict(
            num_hidden_layers=4,
            sliding_window=20,
            layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            query_pre_attn_scalar=24,
            tie_word_embeddings=False,  # tied, and its embedding scaled up, a random Gemma repeats its input
        ),
    ),
}


def make_checkpoint(folder: Path, kind: str, changes: dict[str, Any], *, seed: int = 0) -> Path:
    """Write a random model of transformers' ``kind`` (Llama, Qwen2, ...) with SMALL's sizes but for ``changes``."""
    import torch
    import transformers

    values = SMALL | changes
    if kind == "Qwen2":
        values.pop("head_dim")
    config = getattr(transformers, f"{kind}Config")(**values)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        for name, parameter in model.named_parameters():
            is_norm = name.endswith("norm.weight")
            centre = 1.0 if is_norm and kind != "Gemma3Text" else 0.0  # Gemma stores its norms less one
            torch.nn.init.normal_(parameter, mean=centre, std=0.1 if is_norm else 0.3)
    model.generation_config = transformers.GenerationConfig(bos_token_id=BEGIN, eos_token_id=END, pad_token_id=PAD)
    model.save_pretrained(folder)
    return folder


def make_tokenizer(folder: Path) -> None:
    """Train a byte-level BPE of exactly VOCAB_SIZE tokens and write it with its chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = dict(
        tokenizer_class="PreTrainedTokenizerFast",
        bos_token=SPECIAL_TOKENS[BEGIN],
        eos_token=SPECIAL_TOKENS[END],
        pad_token=SPECIAL_TOKENS[PAD],
        add_bos_token=False,
        clean_up_tokenization_spaces=False,
        model_max_length=SMALL["max_position_embeddings"],
        chat_template=CHAT_TEMPLATE,
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("native") and not library.available():
        pytest.skip(f"no native kernels in {library.folder()}; make native builds them where there is a C++ compiler")


class Server(NamedTuple):
    """``quire serve`` in a process of its own."""

    url: str
    pid: int


@contextmanager
def _serving(*flags: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "quire", "serve", *flags, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said: list[str] = []
    address: SimpleQueue[str | None] = SimpleQueue()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:  # to the end: a full pipe would stop the server
            said.append(line)
            if found := re.search(r"http://\S+", line):
                address.put(found.group())
        address.put(None)

    listener = Thread(target=listen)
    listener.start()
    try:
        url = address.get(timeout=180)
        if url is None:
            pytest.fail(f"the server did not start: {''.join(said)}")
        yield Server(url, process.pid)
    finally:
        process.terminate()
        process.wait(timeout=60)
        listener.join()
    rest = "".join(said)
    assert process.returncode == 0, rest
    assert "Traceback" not in rest, rest


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[Server]]:
    """``serving(model, *flags)`` is a server on a free port; at its end it is seen that it ended well."""
    return _serving


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny checkpoint by its name in TINY. Do not write to it: it is everyone's."""
    root = tmp_path_factory.mktemp("checkpoints")

    def get(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            make_checkpoint(folder, *TINY[name])
            make_tokenizer(folder)
        return folder

    return get


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a checkpoint without a tokenizer, as ``make_checkpoint`` does: ``random_checkpoint("Llama", bias=...)``."""

    def make(kind: str, **changes: Any) -> Path:
        return make_checkpoint(tmp_path_factory.mktemp("random"), kind, changes)

    return make
