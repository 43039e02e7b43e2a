"""``quire bench throughput``: an engine that is given everything at once."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from quire.cli.bench_flags import add_dataset_flags, read_dataset
from quire.cli.fields import ENGINE_SECTIONS
from quire.cli.flags import read
from quire.cli.numbers import finite, whole
from quire.core.errors import ConfigError

_ABOUT = "Measure an engine that is given everything at once. Answers have their full length."


def main(argv: Sequence[str]) -> int:
    """Measure, print and save; returns the exit code."""
    reading = read("quire bench throughput", _ABOUT, argv, sections=ENGINE_SECTIONS, add_options=_add_options)
    reading.start_logging("warning")
    given = vars(reading.options)
    if "async_engine" in given:
        raise ConfigError(
            "--async-engine: this runs the LLM class; measure the asynchronous one with quire bench serve."
        )
    dataset = read_dataset(given, prefix_len=given.get("prefix_len"))
    output = Path(given["output_json"]) if "output_json" in given else None
    from quire.core.signals import held

    with held():
        from quire.bench import report
        from quire.bench.offline import Generation, run_throughput

    if output is not None:
        report.prepare(output.absolute().parent, output.name)
    generation = Generation(
        n=given.get("n", 1), temperature=given.get("temperature", 1.0), top_p=given.get("top_p", 1.0)
    )
    found = run_throughput(
        reading.settings,
        dataset,
        num_prompts=given.get("num_prompts", 1000),
        num_warmups=given.get("num_warmups", 0),
        generation=generation,
        use_tqdm="disable_tqdm" not in given and sys.stderr.isatty(),
    )
    print("\n".join(found.lines()))
    if output is not None:
        report.save(found.fields(), output)
    return 0


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_dataset_flags(parser)
    add = parser.add_argument_group("measurement").add_argument
    add("--backend", choices=("quire", "vllm"), help="is always this engine")
    add("--async-engine", action="store_true", help=argparse.SUPPRESS)
    add("--prefix-len", type=whole(0), metavar="N", help="tokens that all prompts share (random, sonnet)")
    add("--num-warmups", type=whole(0), metavar="N", help="prompts before the run that do not count (default: 0)")
    add("--n", type=whole(1), metavar="N", help="answers to each prompt (default: 1)")
    add("--temperature", type=finite, metavar="X", help="0 chooses the likeliest token (default: 1)")
    add("--top-p", type=finite, metavar="X", help="sample from this share of the probability (default: 1)")
    add("--output-json", metavar="FILE", help="write the numbers here")
    add("--disable-tqdm", action="store_true", help="show no progress")
