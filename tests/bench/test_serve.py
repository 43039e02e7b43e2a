"""``quire bench serve`` as it is typed, against a server that plays: table, JSON, notes, errors, exit codes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire.cli.main import main

BENCH = ["bench", "serve", "--disable-tqdm", "--input-len", "9", "--output-len", "4"]

TABLE = """\
============ Serving Benchmark Result ============
Successful requests:                     5         
Failed requests:                         0         
Maximum request concurrency:             2         
Request rate configured (RPS):           500.00    
Benchmark duration (s):                  #
Total input tokens:                      40        
Total generated tokens:                  20        
Request throughput (req/s):              #
Request goodput (req/s):                 #
Output token throughput (tok/s):         #
Peak output token throughput (tok/s):    20.00     
Peak concurrent requests:                #
Total token throughput (tok/s):          #
---------------Time to First Token----------------
Mean TTFT (ms):                          #
Median TTFT (ms):                        #
P50 TTFT (ms):                           #
P99.9 TTFT (ms):                         #
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          #
Median TPOT (ms):                        #
P50 TPOT (ms):                           #
P99.9 TPOT (ms):                         #
---------------Inter-token Latency----------------
Mean ITL (ms):                           #
Median ITL (ms):                         #
P50 ITL (ms):                            #
P99.9 ITL (ms):                          #
----------------End-to-end Latency----------------
Mean E2EL (ms):                          #
Median E2EL (ms):                        #
P50 E2EL (ms):                           #
P99.9 E2EL (ms):                         #
==================================================
"""

KEYS = [
    "date endpoint_type backend label model_id tokenizer_id num_prompts version request_rate burstiness "
    "max_concurrency duration completed failed total_input_tokens total_output_tokens request_throughput "
    "request_goodput output_throughput total_token_throughput max_output_tokens_per_s max_concurrent_requests "
    "tokens_per_chunk client_cpu_s",
    *(f"mean_{m}_ms median_{m}_ms std_{m}_ms p90_{m}_ms p99_{m}_ms" for m in ("ttft", "tpot", "itl", "e2el")),
]
DETAILS = "input_lens output_lens ttfts itls latencies start_times queue_times generated_texts errors"


@pytest.fixture
def bench(server: Any, words: Any) -> Callable[..., int]:
    """``bench(flags...)`` measures the server and returns the exit code."""
    return lambda *flags: main([*BENCH, "--base-url", server.url, *flags])


def test_the_table(bench: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--num-prompts 5 --max-concurrency 2 --request-rate 500 --goodput ttft:60000 --metric-percentiles 50,99.9"
    assert bench(*flags.split()) == 0
    out, err = capsys.readouterr()
    shape = "\n".join(re.sub(r"(?<=[(/s)]:)( +)\d+\.\d\d *$", _hidden, line) for line in out.split("\n"))
    shape = re.sub(r"(Peak concurrent requests: +)\d+\.00 *", r"\1#", shape)
    expected = re.sub(r"(Request rate.*)500.00    ", r"\1#", TABLE)
    assert re.sub(r"(Peak output.*)20.00 *", r"\1#", shape) == re.sub(r"(Peak output.*)20.00 *", r"\1#", expected)
    assert err == "note: the server counted other tokens in 5 prompts than the tokenizer: is it the right one?\n"


def _hidden(match: re.Match[str]) -> str:
    return f"{match.group(1)}#"


def test_the_result(bench: Callable[..., int], server: Any, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    flags = ["--num-prompts", "3", "--save-result", "--result-dir", str(path.parent), "--metadata", "version=7"]
    assert bench(*flags, "--result-filename", path.name) == 0
    found = json.loads(path.read_bytes())
    assert list(found) == " ".join(KEYS).split()
    assert (found["backend"], found["endpoint_type"], found["label"]) == ("openai", "openai", None)
    assert (found["model_id"], found["tokenizer_id"], found["version"]) == ("words", "org/words", "7")
    assert (found["request_rate"], found["max_concurrency"], found["request_goodput"]) == ("inf", None, None)
    assert (found["completed"], found["failed"], found["num_prompts"]) == (3, 0, 3)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (24, 12)
    assert found["tokens_per_chunk"] == 1
    assert found["output_throughput"] == pytest.approx(12 / found["duration"])
    assert all(e.body["ignore_eos"] and e.body["max_tokens"] == 4 for e in server.completions)
    assert len({e.body["prompt"] for e in server.completions}) == 3


def test_details_and_lines(bench: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--num-prompts", "2", "--append-result", "--result-filename", "all.jsonl"]
    assert bench(*flags, "--percentile-metrics", "itl", "--save-detailed") == 0
    assert bench(*flags, "--percentile-metrics", "client_queue_time") == 0
    first, second = map(json.loads, (tmp_path / "all.jsonl").read_text().split("\n"))
    assert set(DETAILS.split()) <= first.keys() and not set(DETAILS.split()) & second.keys()
    assert first["output_lens"] == [4, 4] and first["generated_texts"] == [" la la la la"] * 2
    assert [len(gaps) for gaps in first["itls"]] == [3, 3] and first["errors"] == ["", ""]
    assert "mean_itl_ms" in first and "mean_ttft_ms" not in first
    assert "mean_client_queue_time_ms" in second and "mean_itl_ms" not in second


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("--request-rate 400 --max-concurrency 3", r"openai-400\.0qps-concurrency3-m-\d{8}-\d{6}\.json"),
        ("--backend openai-chat", r"openai-chat-infqps-m-\d{8}-\d{6}\.json"),
        ("--backend vllm --label its/mine", r"its-mine-infqps-m-\d{8}-\d{6}\.json"),
        (
            "--ramp-up-strategy linear --ramp-up-start-rps 100 --ramp-up-end-rps 400",
            r"openai-ramp-up-linear-100qps-400qps-m-\d{8}-\d{6}\.json",
        ),
    ],
)
def test_file_names(bench: Callable[..., int], tmp_path: Path, flags: str, name: str) -> None:
    assert (
        bench("--num-prompts", "2", "--model", "org/m", "--save-result", "--result-dir", str(tmp_path), *flags.split())
        == 0
    )
    (path,) = tmp_path.iterdir()
    assert re.fullmatch(name, path.name)
    found = json.loads(path.read_bytes())
    if "ramp" in flags:
        assert (found["ramp_up_strategy"], found["ramp_up_start_rps"], found["ramp_up_end_rps"]) == ("linear", 100, 400)
        assert [event["rps"] for event in found["rps_change_events"]] == [250, 400]


def test_what_is_sent(bench: Callable[..., int], server: Any) -> None:
    flags = "--backend openai-chat --num-prompts 1 --temperature 0 --top-k 3 --logprobs 2 --api-key sesame"
    body = '{"top_k": 4, "chat_template_kwargs": {"thinking": true}}'
    names = ["--model", "org/words", "--served-model-name", "w"]
    assert bench(*flags.split(), *names, "--header", "X-A=b", "X-C=d", "--extra-body", body) == 0
    (exchange,) = server.completions
    assert exchange.path == "/v1/chat/completions"
    assert exchange.headers["authorization"] == "Bearer sesame"
    assert (exchange.headers["x-a"], exchange.headers["x-c"]) == ("b", "d")
    sent = exchange.body
    assert sent["messages"][0]["role"] == "user" and len(sent["messages"]) == 1
    assert (sent["model"], sent["temperature"], sent["top_k"]) == ("w", 0, 4)
    assert (sent["logprobs"], sent["top_logprobs"], sent["chat_template_kwargs"]) == (True, 2, {"thinking": True})


def test_the_key_may_be_in_the_environment(
    bench: Callable[..., int], server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-outside")
    assert bench("--num-prompts", "1") == 0
    assert {e.headers.get("authorization") for e in server.exchanges} == {"Bearer from-outside"}


def test_seeds_and_warm_ups_have_prompts_of_their_own(bench: Callable[..., int], server: Any) -> None:
    prompts = []
    for seed in ("1", "1", "2"):
        server.exchanges.clear()
        assert bench("--num-prompts", "2", "--num-warmups", "2", "--seed", seed) == 0
        prompts.append({e.body["prompt"] for e in server.completions})
    assert all(len(each) == 4 for each in prompts)
    assert prompts[0] == prompts[1] and not prompts[1] & prompts[2]


def test_a_server_that_does_not_count(bench: Callable[..., int], server: Any, capsys: Any) -> None:
    async def play(exchange: Any) -> None:
        events = [{"choices": [{"text": " la la", "finish_reason": reason}]} for reason in (None, "stop")]
        await exchange.stream(*(f"data: {json.dumps(event)}\n\n".encode() for event in events), b"data: [DONE]\n\n")

    server.play = play
    assert bench("--num-prompts", "1") == 0
    out, err = capsys.readouterr()
    assert re.search(r"Total input tokens: +9\b", out) and re.search(r"Total generated tokens: +4\b", out)
    assert "did not count the tokens of 1 answers: taken is the tokenizer's count" in err
    assert "2.00 tokens a piece" in err


def test_some_fail(bench: Callable[..., int], server: Any, capsys: Any) -> None:
    plays = server.play

    async def play(exchange: Any) -> None:
        if len(server.completions) == 2:
            await exchange.json(500, {"error": {"message": "The second is one too many."}})
        else:
            await plays(exchange)

    server.play = play
    assert bench("--num-prompts", "4", "--max-concurrency", "1") == 0
    out, err = capsys.readouterr()
    assert re.search(r"Successful requests: +3\b", out) and re.search(r"Failed requests: +1\b", out)
    assert "1 requests failed; the first said: HTTP status 500: The second is one too many.\n" in err


def test_all_fail(bench: Callable[..., int], server: Any, capsys: Any) -> None:
    async def play(exchange: Any) -> None:
        exchange.hang_up()

    server.play = play
    assert bench("--num-prompts", "3") == 1
    out, err = capsys.readouterr()
    assert re.search(r"Failed requests: +3\b", out)
    assert err.startswith("3 requests failed; the first said: the connection broke off")


def test_it_waits_for_the_server(bench: Callable[..., int], server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.bench.serve._READY_PAUSE_S", 0.01)
    plays = server.play

    async def play(exchange: Any) -> None:
        if len(server.completions) < 3:
            await exchange.json(503, {"error": {"message": "loading"}})
        else:
            await plays(exchange)

    server.play = play
    assert bench("--num-prompts", "1", "--ready-check-timeout-sec", "20") == 0
    assert [e.body["max_tokens"] for e in server.completions] == [1, 1, 1, 4]
    server.exchanges.clear()


def test_profiler(bench: Callable[..., int], server: Any, capsys: Any) -> None:
    assert bench("--num-prompts", "1", "--profile") == 0
    assert [e.path for e in server.exchanges][1:] == ["/start_profile", "/v1/completions", "/stop_profile"]
    server.profiler_status = 404
    assert bench("--num-prompts", "1", "--profile") == 2
    assert "this server has no profiler" in capsys.readouterr().err


def test_a_picture(bench: Callable[..., int], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "run.png"
    assert bench("--num-prompts", "3", "--plot", str(path)) == 0
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--num-prompts 0", "--num-prompts: 0: must be at least 1"),
        ("--request-rate fast", "--request-rate: fast: expected a number"),
        ("--percentile-metrics ttft,speed", "--percentile-metrics speed: must be of ttft"),
        ("--metric-percentiles 101", "--metric-percentiles 101"),
        ("--goodput ttft:soon", "--goodput ttft:soon"),
        ("--goodput itl:5", "--goodput itl:5"),
        ("--metadata version", "--metadata version: must look like KEY=VALUE"),
        ("--extra-body [1]", "--extra-body [1]: is not a JSON object"),
        ("--dataset-path x.txt", "--dataset-name random makes its prompts up"),
        ("--dataset-name sharegpt", "--dataset-name sharegpt: needs --dataset-path"),
        ("--skip-tokenizer-init", "needs a tokenizer"),
        ("--plot there.txt", "must end with .png"),
        ("--plot no/such/x.png", "there is no folder no/such"),
        ("--save-result --result-dir /dev/null/x", "/dev/null/x: cannot be made"),
        ("--save-result --result-dir /dev --result-filename fd", "/dev/fd: is a folder"),
        ("--temperature inf", "--temperature: inf: must be finite"),
        ("m --model n", "two models are given: 'm' and --model n"),
        ("--num-warmup 1", "did you mean --num-warmups?"),
    ],
)
def test_wrong_usage_is_one_line(bench: Callable[..., int], capsys: Any, flags: str, says: str) -> None:
    assert bench(*flags.split()) == 2
    out, err = capsys.readouterr()
    assert says in err and err.startswith("quire: error: ") and err.count("\n") == 1 and not out


def test_what_is_not_saved_is_said(bench: Callable[..., int], capsys: Any) -> None:
    assert bench("--num-prompts", "1", "--save-detailed") == 0
    assert "note: --save-detailed has no effect without --save-result." in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--api-key", "a\nb"], ["--request-id-prefix", "a\nb"], ["--header", "X-A=b\nc"]])
def test_a_header_that_cannot_be_sent_is_an_error(bench: Callable[..., int], capsys: Any, flags: list[str]) -> None:
    assert bench("--num-prompts", "1", *flags) == 1
    assert "a header cannot be sent: " in capsys.readouterr().err


def test_pictures_need_a_library(bench: Callable[..., int], capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.bench.plot.find_spec", lambda name: None)
    assert bench("--plot", "x.png") == 2
    assert "--plot needs matplotlib: pip install 'quire[bench]'." in capsys.readouterr().err


def test_a_model_that_nobody_has(server: Any, capsys: Any) -> None:
    assert main([*BENCH, "--base-url", server.url, "--model", "/no/such/model"]) == 2
    err = capsys.readouterr().err
    assert "/no/such/model" in err and "Name one with --tokenizer." in err and err.count("\n") == 1


def test_without_a_tokenizer(server: Any, capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"prompt": "la la"}\n')
    flags = ["--dataset-name", "custom", "--dataset-path", str(tmp_path / "own.jsonl"), "--num-prompts", "2"]
    assert main([*BENCH, "--base-url", server.url, "--skip-tokenizer-init", *flags]) == 0
    out, _ = capsys.readouterr()
    assert re.search(r"Total input tokens: +4\b", out) and re.search(r"Total generated tokens: +8\b", out)
