"""``quire bench serve``: flags, progress and output of the load generator.

The table goes to standard output, everything else to standard error. Exit code 1 if no request was answered.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from quire.cli.bench_flags import add_dataset_flags, pairs, read_dataset
from quire.cli.flags import read
from quire.cli.numbers import finite, number, whole
from quire.core.errors import ConfigError

if TYPE_CHECKING:
    from quire.bench.arrivals import Arrivals
    from quire.bench.serve import Work
    from quire.bench.target import Target

_ABOUT = "Measure a running server with the OpenAI API, as its clients see it."
_KEY_VARIABLES = ("OPENAI_API_KEY", "QUIRE_API_KEY", "VLLM_API_KEY")
_SAMPLING = (
    ("temperature", finite),
    ("top_p", finite),
    ("top_k", whole(-1)),
    ("min_p", finite),
    ("frequency_penalty", finite),
    ("presence_penalty", finite),
    ("repetition_penalty", finite),
)
_METRICS = ("ttft", "tpot", "itl", "e2el", "client_queue_time", "e2el_including_client_queue")


def main(argv: Sequence[str]) -> int:
    """Measure, print and save; returns the exit code."""
    reading = read("quire bench serve", _ABOUT, argv, sections={}, add_options=_add_options)
    reading.start_logging("warning")
    given = reading.settings | vars(reading.options)
    if find_spec("aiohttp") is None:
        raise ConfigError("quire bench serve needs aiohttp: pip install 'quire[bench]'.")
    from quire.core.signals import held

    with held():
        from quire.bench import plot, report
        from quire.bench.serve import run_serve

    picture = Path(given["plot"]) if "plot" in given else None
    if picture is not None:
        plot.check_plot(picture)
    metadata = pairs("--metadata", given.get("metadata", []))
    metrics = _metrics(given)
    work = _work(given)
    folder = Path(given.get("result_dir", "."))
    is_saved = "save_result" in given or "append_result" in given
    if is_saved:
        report.prepare(folder, given.get("result_filename"))
    for name in ("save_detailed", "result_dir", "result_filename"):
        if name in given and not is_saved:
            print(f"note: --{name.replace('_', '-')} has no effect without --save-result.", file=sys.stderr)
    with _bar(work.num_prompts, "disable_tqdm" in given) as bar:
        outcome = run_serve(work, lambda answer: bar.update(1))
    run, summary = outcome.run, outcome.summary
    backend = given.get("backend") or ("openai-chat" if work.target.is_chat else "openai")
    heading = outcome.heading(work, backend, given.get("label"), metadata)
    print(report.block(summary, heading, metrics))
    for note in outcome.notes:
        print(f"note: {note}", file=sys.stderr)
    first_error = next((answer.error for answer in run.answers if answer.error), None)
    if first_error is not None:
        print(f"{summary.failed} requests failed; the first said: {first_error}", file=sys.stderr)
    if is_saved:
        is_detailed = "save_detailed" in given
        fields = report.result(heading, summary, run, outcome.plan, metrics, is_detailed=is_detailed)
        path = folder / given.get("result_filename", report.file_name(heading))
        report.save(fields, path, appends="append_result" in given)
    if picture is not None:
        title = f"{outcome.model}, {summary.completed} requests, {summary.output_throughput:.0f} tok/s"
        plot.draw(picture, run.answers, start_s=run.start_s, duration_s=run.duration_s, title=title)
    return 0 if summary.completed else 1


def _work(given: dict[str, Any]) -> "Work":
    from quire.bench.serve import Work

    target = _target(given)
    fields = {name: given[name] for name, _ in _SAMPLING if name in given}
    if "logprobs" in given:
        fields |= target.logprobs(given["logprobs"])
    return Work(
        target=target,
        dataset=read_dataset(given),
        arrivals=_arrivals(given),
        model=given.get("model"),
        served_model_name=given.get("served_model_name"),
        tokenizer=given.get("tokenizer"),
        skip_tokenizer="skip_tokenizer_init" in given,
        num_prompts=given.get("num_prompts", 1000),
        num_warmups=given.get("num_warmups", 0),
        max_concurrency=given.get("max_concurrency"),
        ready_timeout_s=given.get("ready_check_timeout_sec", 0),
        seed=given.get("seed", 0),
        fields=fields | _json_object("--extra-body", given.get("extra_body", "{}")),
        ignore_eos="ignore_eos" in given,
        request_id_prefix=given.get("request_id_prefix"),
        uses_profiler="profile" in given,
        percentiles=_percentiles(given.get("metric_percentiles", "90,99")),
        goodput_ms=_goodput(given.get("goodput", [])),
    )


def _target(given: dict[str, Any]) -> "Target":
    from quire.bench.target import find_target

    host, port = given.get("host", "127.0.0.1"), given.get("port", 8000)
    base_url = given.get("base_url") or f"http://{f'[{host}]' if ':' in host else host}:{port}"
    key = given.get("api_key") or next(filter(None, map(os.environ.get, _KEY_VARIABLES)), None)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    headers |= pairs("--header", given.get("header", []))
    return find_target(base_url, given.get("backend"), given.get("endpoint"), headers, "insecure" not in given)


def _arrivals(given: dict[str, Any]) -> "Arrivals":
    from quire.bench.arrivals import Arrivals

    return Arrivals(
        request_rate=given.get("request_rate", float("inf")),
        burstiness=given.get("burstiness", 1.0),
        ramp_up=given.get("ramp_up_strategy"),
        start_rps=given.get("ramp_up_start_rps"),
        end_rps=given.get("ramp_up_end_rps"),
    )


def _metrics(given: dict[str, Any]) -> list[str]:
    chosen = given.get("percentile_metrics", "ttft,tpot,itl,e2el").replace(" ", "").split(",")
    for name in chosen:
        if name not in _METRICS:
            raise ConfigError(f"--percentile-metrics {name}: must be of {', '.join(_METRICS)}.")
    return [name for name in _METRICS if name in chosen]


def _percentiles(text: str) -> list[float]:
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = [-1.0]
    if not all(0 <= value <= 100 for value in values):
        raise ConfigError(f"--metric-percentiles {text}: must be numbers from 0 to 100 with commas between them.")
    return values


def _goodput(words: list[str]) -> dict[str, float]:
    limits = {}
    for name, text in pairs("--goodput", words, ":").items():
        try:
            limits[name] = float(text)
        except ValueError:
            limits[name] = -1.0
        if not limits[name] >= 0 or name not in ("ttft", "tpot", "e2el"):
            raise ConfigError(f"--goodput {name}:{text}: must be ttft, tpot or e2el with milliseconds, as ttft:200.")
    return limits


def _json_object(flag: str, text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(f"{flag} {text}: is not a JSON object: {error}.") from None


def _bar(total: int, is_off: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="request", disable=True if is_off else None, mininterval=0.5)


def _add_options(parser: argparse.ArgumentParser) -> None:
    _add_server_flags(parser)
    add_dataset_flags(parser)
    _add_traffic_flags(parser)
    sampling = parser.add_argument_group("sampling", description="Sent with every request where given.")
    for name, kind in _SAMPLING:
        sampling.add_argument("--" + name.replace("_", "-"), type=kind, metavar="X")
    sampling.add_argument("--ignore-eos", action="store_true", help="answers have their full length; random: always so")
    sampling.add_argument("--logprobs", type=whole(0), metavar="N", help="ask for log probabilities")
    sampling.add_argument("--extra-body", metavar="JSON", help="more fields of a request; they win over all others")
    _add_result_flags(parser)


def _add_server_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("server").add_argument
    add("--backend", "--endpoint-type", metavar="NAME", help="openai (completions) or openai-chat (default: openai)")
    add("--base-url", metavar="URL", help="where the server is, in place of --host and --port")
    add("--host", help="(default: 127.0.0.1)")
    add("--port", type=whole(1), metavar="N", help="(default: 8000)")
    add("--endpoint", metavar="PATH", help="(default: /v1/completions, or /v1/chat/completions)")
    add("-m", "--model", metavar="NAME", help="model and its tokenizer (default: the server's first)")
    add("--served-model-name", metavar="NAME", help="the model's name in requests (default: --model)")
    add("--tokenizer", metavar="NAME", help="take the tokenizer from this model, folder or .gguf file instead")
    add("--skip-tokenizer-init", action="store_true", help="do without a tokenizer (custom prompts only)")
    add("--api-key", metavar="KEY", help="also OPENAI_API_KEY, QUIRE_API_KEY or VLLM_API_KEY")
    add("--header", nargs="+", action="extend", metavar="KEY=VALUE", help="more headers")
    add("--insecure", action="store_true", help="accept any certificate")
    add("--ready-check-timeout-sec", type=number, metavar="S", help="wait so long for the server (default: 0)")
    add("--profile", action="store_true", help="switch the server's profiler on for the run")


def _add_traffic_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("traffic").add_argument
    add("--request-rate", type=number, metavar="X", help="requests per second (default: inf, all at once)")
    add("--burstiness", type=number, metavar="X", help="1: Poisson; less: bursts; more: evenly (default: 1)")
    add("--max-concurrency", type=whole(1), metavar="N", help="requests under way at once (default: no limit)")
    add("--ramp-up-strategy", choices=("linear", "exponential"), help="let the rate grow over the run")
    add("--ramp-up-start-rps", type=number, metavar="X", help="from so many requests per second")
    add("--ramp-up-end-rps", type=number, metavar="X", help="to so many")
    add("--num-warmups", type=whole(0), metavar="N", help="requests before the run that do not count (default: 0)")
    add("--seed", type=whole(0), metavar="N", help="of prompts and arrivals; another seed, other prompts (default: 0)")
    add("--request-id-prefix", metavar="TEXT", help="send X-Request-Id: this and the request's number")


def _add_result_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("result").add_argument
    add("--percentile-metrics", metavar="LIST", help=f"of {','.join(_METRICS)} (default: the first four)")
    add("--metric-percentiles", metavar="LIST", help="(default: 90,99)")
    add("--goodput", nargs="+", action="extend", metavar="NAME:MS", help="limits of a good request: ttft:200 tpot:50")
    add("--save-result", action="store_true", help="write a JSON file")
    add("--save-detailed", action="store_true", help="with every request's times, text and error in it")
    add("--append-result", action="store_true", help="add a line to the file instead")
    add("--result-dir", metavar="DIR", help="(default: here)")
    add("--result-filename", metavar="FILE", help="(default: BACKEND-RATEqps-MODEL-DATE.json)")
    add("--metadata", nargs="+", action="extend", metavar="KEY=VALUE", help="written into the JSON")
    add("--label", metavar="TEXT", help="in place of the backend in the file's name")
    add("--plot", metavar="FILE.png", help="draw the run (needs matplotlib)")
    add("--disable-tqdm", action="store_true", help="show no progress")
