"""Flags that several benchmarks have: which prompts, how many of them."""

import argparse
from typing import TYPE_CHECKING, Any

from quire.cli.numbers import number, whole
from quire.core.errors import ConfigError

if TYPE_CHECKING:
    from quire.bench.datasets.sample import Dataset

DATASETS = ("random", "sharegpt", "sonnet", "prefix_repetition", "custom")


def pairs(flag: str, words: list[str], separator: str = "=") -> dict[str, str]:
    """``KEY=VALUE`` words as a dict; raises ConfigError."""
    found = {}
    for word in words:
        key, equals, value = word.partition(separator)
        if not equals or not key.strip():
            raise ConfigError(f"{flag} {word}: must look like KEY{separator}VALUE.")
        found[key.strip()] = value.strip()
    return found


def add_dataset_flags(parser: argparse.ArgumentParser) -> None:
    """How many prompts, and from where."""
    add = parser.add_argument_group("prompts").add_argument
    add("--num-prompts", type=whole(1), metavar="N", help="requests to send (default: 1000)")
    add("--dataset-name", choices=DATASETS, help="where prompts come from (default: random)")
    add("--dataset-path", "--dataset", metavar="FILE", help="sharegpt: JSON; sonnet: text; custom: JSON lines")
    add("--input-len", type=whole(1), metavar="N", help="tokens of a prompt (default: the dataset's)")
    add("--output-len", type=whole(1), metavar="N", help="tokens of an answer (default: the dataset's)")
    add("--disable-shuffle", action="store_true", help="take a file's prompts in their order")
    add("--no-oversample", action="store_true", help="do not repeat a file's prompts if there are too few")
    add("--skip-chat-template", action="store_true", help="is always so: prompts are sent as they stand")
    _length(add, "--random-input-len", "tokens of a random prompt", 1024, also="--random-input")
    _length(add, "--random-output-len", "tokens of its answer", 128, also="--random-output")
    add("--random-range-ratio", type=number, metavar="X", help="lengths vary by this share (default: 0)")
    _length(add, "--random-prefix-len", "tokens before it that all prompts share", 0, least=0)
    _length(add, "--sonnet-input-len", "tokens of a prompt of verses", 550)
    _length(add, "--sonnet-output-len", "tokens of its answer", 150)
    _length(add, "--sonnet-prefix-len", "tokens of it that all prompts share", 200, least=0)
    add("--sharegpt-output-len", type=whole(1), metavar="N", help="tokens of an answer (default: as recorded)")
    add(
        "--custom-output-len",
        type=whole(-1),
        metavar="N",
        help="tokens of an answer; -1: output_tokens of each line (default: 256)",
    )
    _length(add, "--prefix-repetition-prefix-len", "tokens that a group of prompts shares", 256)
    _length(add, "--prefix-repetition-suffix-len", "tokens of a prompt's own", 256)
    _length(add, "--prefix-repetition-num-prefixes", "groups", 10)
    _length(add, "--prefix-repetition-output-len", "tokens of an answer", 128)


def _length(add: Any, flag: str, text: str, default: int, *, least: int = 1, also: str | None = None) -> None:
    names = (flag,) if also is None else (flag, also)
    add(*names, type=whole(least), metavar="N", help=f"{text} (default: {default})")


def read_dataset(given: dict[str, Any], *, prefix_len: int | None = None) -> "Dataset":
    """The dataset that the flags describe. Raises ConfigError.

    ``--input-len`` and ``--output-len`` win over the defaults, and the dataset's own flags over them.
    """
    from quire.bench.datasets.files import Custom, ShareGPT, Sonnet
    from quire.bench.datasets.synthetic import PrefixRepetition, RandomText

    name, path = given.get("dataset_name", "random"), given.get("dataset_path")
    output = _present(output_len=given.get("output_len"))
    both = _present(input_len=given.get("input_len")) | output
    order: dict[str, bool] = {
        "is_shuffled": "disable_shuffle" not in given,
        "may_repeat": "no_oversample" not in given,
    }
    if path is not None and name in ("random", "prefix_repetition"):
        raise ConfigError(f"--dataset-path {path}: --dataset-name {name} makes its prompts up; name another one.")
    if name == "random":
        return RandomText(**both | _present(prefix_len=prefix_len) | _own(given, "random_"))
    if name == "sonnet":
        return Sonnet(path=path, **both | _present(prefix_len=prefix_len) | _own(given, "sonnet_"))
    if name == "prefix_repetition":
        return PrefixRepetition(**output | _own(given, "prefix_repetition_"))
    if name == "sharegpt":
        return ShareGPT(path=path, **order, **output | _own(given, "sharegpt_"))
    return Custom(path=path, **order, **output | _own(given, "custom_"))


def _own(given: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
