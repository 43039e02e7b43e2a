"""``quire bench latency``: how long an engine takes for one batch, again and again."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from quire.cli.fields import ENGINE_SECTIONS
from quire.cli.flags import read
from quire.cli.numbers import finite, whole

_ABOUT = "Measure how long an engine takes for one batch of random prompts. Answers have their full length."


def main(argv: Sequence[str]) -> int:
    """Measure, print and save; returns the exit code."""
    reading = read("quire bench latency", _ABOUT, argv, sections=ENGINE_SECTIONS, add_options=_add_options)
    reading.start_logging("warning")
    given = vars(reading.options)
    output = Path(given["output_json"]) if "output_json" in given else None
    from quire.core.signals import held

    with held():
        from quire.bench import report
        from quire.bench.offline import Generation, run_latency

    if output is not None:
        report.prepare(output.absolute().parent, output.name)
    generation = Generation(
        n=given.get("n", 1), temperature=given.get("temperature", 1.0), top_p=given.get("top_p", 1.0)
    )
    found = run_latency(
        reading.settings,
        input_len=given.get("input_len", 32),
        output_len=given.get("output_len", 128),
        batch_size=given.get("batch_size", 8),
        num_iters_warmup=given.get("num_iters_warmup", 10),
        num_iters=given.get("num_iters", 30),
        generation=generation,
        use_tqdm="disable_tqdm" not in given,
    )
    print("\n".join(found.lines()))
    if output is not None:
        report.save(found.fields(), output)
    return 0


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("measurement").add_argument
    add("--input-len", type=whole(1), metavar="N", help="tokens of a prompt (default: 32)")
    add("--output-len", type=whole(1), metavar="N", help="tokens of an answer (default: 128)")
    add("--batch-size", type=whole(1), metavar="N", help="prompts in a batch (default: 8)")
    add("--num-iters-warmup", type=whole(0), metavar="N", help="batches that do not count (default: 10)")
    add("--num-iters", type=whole(1), metavar="N", help="batches that do (default: 30)")
    add("--n", type=whole(1), metavar="N", help="answers to each prompt (default: 1)")
    add("--temperature", type=finite, metavar="X", help="0 chooses the likeliest token (default: 1)")
    add("--top-p", type=finite, metavar="X", help="sample from this share of the probability (default: 1)")
    add("--output-json", metavar="FILE", help="write the numbers here")
    add("--disable-tqdm", action="store_true", help="show no progress")
