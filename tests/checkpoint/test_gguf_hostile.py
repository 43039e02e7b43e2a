"""Files made to hurt: refused at once, with little memory, by an error that names the file and what is wrong."""

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.checkpoint.checkpoint import open_checkpoint
from quire.checkpoint.gguf import GGUFFile
from quire.checkpoint.gguf_names import placements
from quire.core.errors import CorruptCheckpoint, QuireError, UnsupportedModel

HUGE = 2**40


def sound(make) -> bytes:  # type: ignore[no-untyped-def]
    """A whole, tiny llama."""
    number = lambda key, value: make.key(key, 4, make.u32(value))  # noqa: E731
    keys = [
        make.key("general.architecture", 8, make.text("llama")),
        number("llama.block_count", 1),
        number("llama.context_length", 16),
        number("llama.embedding_length", 32),
        number("llama.feed_forward_length", 32),
        number("llama.attention.head_count", 2),
        make.key("llama.attention.layer_norm_rms_epsilon", 6, b"\xac\xc5\x27\x37"),
        make.strings("tokenizer.ggml.tokens", ["a", "b", "longer"]),
        make.key("tokenizer.ggml.scores", 9, make.u32(6) + make.u64(3) + bytes(12)),
        number("tokenizer.ggml.eos_token_id", 2),
    ]
    rows = [
        make.row("token_embd.weight", (32, 3), 8, 0, 102),
        make.row("blk.0.attn_q.weight", (32, 32), 2, 128, 576),
        make.row("output_norm.weight", (32,), 0, 704, 128),
    ]
    return bytes(make.file(keys, rows))


def hostile_files(make) -> dict[str, tuple[bytes, type[QuireError], str]]:  # type: ignore[no-untyped-def]
    whole, row = sound(make), make.row
    corrupt: dict[str, tuple[bytes, str]] = {
        "wrong magic": (make.file(magic=b"GGML"), "not a GGUF file"),
        "a git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        "2^40 keys": (make.file(num_keys=HUGE), "metadata keys"),
        "2^63 tensors": (make.file(num_rows=2**63), "tensors"),
        "a key of 2^40 bytes": (make.file([make.u64(HUGE)]), "a metadata key claims"),
        "a key of 2^64 - 1 bytes": (make.file([make.u64(2**64 - 1)]), "a metadata key claims"),
        "a string of 2^40 bytes": (make.file([make.key("k", 8, make.u64(HUGE))]), "'k' claims"),
        "an array of 2^40 strings": (make.file([make.key("k", 9, make.u32(8) + make.u64(HUGE))]), "'k' claims"),
        "an array of 2^64 - 1 numbers": (
            make.file([make.key("k", 9, make.u32(12) + make.u64(2**64 - 1))]),
            "'k' claims",
        ),
        "an array of 2^40 arrays": (make.file([make.key("k", 9, make.u32(9) + make.u64(HUGE))]), "'k' claims"),
        "an array in an array in an array": (
            make.file([make.key("k", 9, (make.u32(9) + make.u64(1)) * 5000 + make.u32(4) + make.u64(0))]),
            "two deep",
        ),
        "a string in an array, of 2^40 bytes": (
            make.file([make.key("k", 9, make.u32(8) + make.u64(1) + make.u64(HUGE))]),
            "a string of 'k'",
        ),
        "a million empty strings too many": (
            make.file([make.key("k", 9, make.u32(8) + make.u64(2**22 + 1) + bytes(8 * (2**22 + 1)))]),
            "strings of all arrays",
        ),
        "an unknown value type": (make.file([make.key("k", 13, bytes(8))]), "unknown value type 13"),
        "an unknown element type": (make.file([make.key("k", 9, make.u32(99) + make.u64(1))]), "unknown type 99"),
        "a bool of 2": (make.file([make.key("k", 7, b"\2")]), "bool of value 2"),
        "a key twice": (make.file([make.key("k", 4, make.u32(1))] * 2), "appears twice"),
        "a key that is no text": (make.file([make.text(b"\xff") + bytes(8)]), "not UTF-8"),
        "an alignment of 0": (make.file([make.key("general.alignment", 4, make.u32(0))]), "alignment"),
        "an alignment of 48": (make.file([make.key("general.alignment", 4, make.u32(48))]), "alignment"),
        "an alignment of 2^31": (make.file([make.key("general.alignment", 4, make.u32(2**31))]), "alignment"),
        "an alignment that is text": (make.file([make.key("general.alignment", 8, make.text("32"))]), "alignment"),
        "no dimensions": (make.file([], [row("t", (), 0, 0)]), "'t' has 0 dimensions"),
        "2^31 dimensions": (
            make.file([make.text("t") + make.u32(2**31)], num_keys=0, num_rows=1),
            "'t' has 2147483648 dimensions",
        ),
        "a dimension of zero": (make.file([], [row("t", (32, 0), 0, 0)]), "'t' has a dimension of zero"),
        "dimensions that overflow": (make.file([], [row("t", (2**32, 2**32), 0, 0)]), "'t' ends at byte"),
        "dimensions that overflow to 128": (
            make.file([], [row("t", (2**63 + 32, 2**1, 1, 1), 0, 0, 128)]),
            "'t' ends at byte",
        ),
        "an offset of 2^64 - 32": (
            make.file([], [row("t", (8,), 0, 2**64 - 32)], data=bytes(64)),
            "'t' ends at byte",
        ),
        "a tensor past the end": (make.file([], [row("t", (64,), 0, 0)], data=bytes(128)), "beyond the end"),
        "an offset between alignments": (make.file([], [row("t", (4,), 0, 4, 16)]), "not aligned"),
        "overlapping tensors": (
            make.file([], [row("a", (16,), 0, 0, 64), row("b", (16,), 0, 32, 64)]),
            "'a' and 'b' overlap",
        ),
        "one tensor inside another": (
            make.file([], [row("a", (64,), 0, 0, 256), row("b", (4,), 0, 64, 16), row("c", (4,), 0, 96, 16)]),
            "overlap",
        ),
        "a tensor twice": (make.file([], [row("t", (4,), 0, 0, 16), row("t", (4,), 0, 32, 16)]), "appears twice"),
        "an unknown tensor type": (make.file([], [row("t", (32,), 200, 0, 32)]), "unknown type 200"),
        "half a block": (make.file([], [row("t", (48,), 2, 0, 64)]), "do not divide"),
        "a tensor's name of 1 MB": (make.file([], [row("n" * 2**20, (4,), 0, 0, 16)]), "more than the 256"),
        "a tensor table cut off": (make.file([], num_rows=100_000), "left"),
    }
    for at in (4, 7, 11, 20, 23, 24, 40, 100, 300, 500, len(whole) - 1000, len(whole) - 129, len(whole) - 1):
        corrupt[f"cut off at byte {at}"] = (whole[:at], "not a sound GGUF file")
    files = {name: (content, CorruptCheckpoint, message) for name, (content, message) in corrupt.items()}
    files["version 1"] = (make.file(version=1), UnsupportedModel, "version 1")
    files["version 4"] = (make.file(version=4), UnsupportedModel, "version 4")
    files["big-endian"] = (make.file(version=0x03000000), UnsupportedModel, "big-endian")
    for code, name in ((16, "IQ2_XXS"), (34, "TQ1_0"), (39, "MXFP4"), (28, "F64")):
        files[f"type {name}"] = (make.file([], [row("t.w", (256,), code, 0, 512)]), UnsupportedModel, f"'t.w'.*{name}")
    return files


@pytest.fixture
def whole(gguf_bytes) -> bytes:  # type: ignore[no-untyped-def]
    return sound(gguf_bytes)


def test_the_sound_file_is_sound(whole: bytes, write: Callable[[bytes], Path]) -> None:
    use(write(whole))


def test_hostile_files(gguf_bytes, write: Callable[[bytes], Path]) -> None:  # type: ignore[no-untyped-def]
    files = hostile_files(gguf_bytes)
    assert len(files) > 50
    for name, (content, kind, message) in files.items():
        path = write(content)
        tracemalloc.start()
        began = time.perf_counter()
        with pytest.raises(kind, match=message) as caught:
            GGUFFile(path)
        took = time.perf_counter() - began
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert str(path) in caught.value.message, name
        assert took < 1, name
        assert peak < 2**20 + len(content), name


def use(path: Path) -> None:
    """Ask for everything there is."""
    checkpoint = open_checkpoint(path)
    assert checkpoint.gguf is not None
    with checkpoint.gguf as file:
        for key in file.metadata:
            file.metadata[key]
        for name, tensor in file.tensors.items():
            assert file.data(name).nbytes == tensor.num_bytes
        config = checkpoint.config
        assert isinstance(checkpoint.generation_config, dict)
        assert isinstance(checkpoint.chat_template, str | None)
        assert isinstance(checkpoint.eos_token_ids, tuple)
        placements(file, config)


@settings(max_examples=300, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4), data=st.data())
def test_flipped_bytes_are_read_or_refused(
    whole: bytes, write: Callable[[bytes], Path], flips: list[tuple[int, int]], data: st.DataObject
) -> None:
    content = bytearray(whole)
    for place, value in flips:
        content[place % len(content)] = value
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    try:
        use(write(bytes(content[:cut])))
    except (CorruptCheckpoint, UnsupportedModel):
        return
