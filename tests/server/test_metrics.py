"""``/metrics``: the numbers agree with what clients were told, under vLLM's names."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from tests.server.conftest import FakeLLM

from quire.core.outputs import RequestOutput
from quire.core.request import Request
from quire.core.sampling_params import SamplingParams
from quire.core.step import Finished, FinishReason, Started, StepOutput
from quire.server.histogram import Histogram, one_two_five
from quire.server.metrics import Metrics, Throughput

pytestmark = pytest.mark.anyio

LABELS = {"model_name": "fake", "engine": "0"}
HI = [{"role": "user", "content": "hi"}]


async def scrape(client):
    """(name, the labels beyond model and engine) -> value"""
    text = (await client.get("/metrics")).text
    return {
        (sample.name, tuple(sorted((k, v) for k, v in sample.labels.items() if k not in LABELS))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_counts_agree_with_the_clients(client, llm):
    llm.num_cached_tokens = 3
    answers = [
        await client.post("/v1/chat/completions", json={"messages": HI, "max_tokens": 3}),
        await client.post("/v1/completions", json={"prompt": ["xy", "z"], "max_tokens": 5, "n": 2}),
    ]
    usages = [answer.json()["usage"] for answer in answers]
    found = await scrape(client)
    assert found["vllm:generation_tokens_total", ()] == sum(u["completion_tokens"] for u in usages)
    assert found["vllm:prompt_tokens_total", ()] == sum(u["prompt_tokens"] for u in usages)
    assert found["vllm:prompt_tokens_cached_total", ()] == 9
    assert found["vllm:request_success_total", (("finished_reason", "length"),)] == 3
    assert found["vllm:request_success_total", (("finished_reason", "abort"),)] == 0
    assert found["vllm:request_generation_tokens_sum", ()] == 23
    assert found["vllm:request_params_n_sum", ()] == 5
    assert found["vllm:request_params_max_tokens_sum", ()] == 13
    assert found["vllm:request_max_num_generation_tokens_sum", ()] == 13
    # one continuation waits between its tokens: 2 times for 3 tokens, 4 times for each of 4 continuations of 5
    assert found["vllm:inter_token_latency_seconds_count", ()] == 2 + 4 * 4
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time", "request_decode_time"):
        assert found[f"vllm:{name}_seconds_count", ()] == 3
    assert found["vllm:time_to_first_token_seconds_bucket", (("le", "+Inf"),)] == 3
    assert found["vllm:num_requests_running", ()] == 0
    assert found["vllm:prefix_cache_hits_total", ()] == 4
    assert found["vllm:avg_generation_throughput_toks_per_s", ()] == 2.3
    assert found["vllm:cache_config_info", (("block_size", "16"), ("num_gpu_blocks", "32"))] == 1


async def test_every_name_of_a_dashboard_is_there(client):
    names = {name for name, _ in await scrape(client)}
    plain = "num_requests_running num_requests_waiting kv_cache_usage_perc gpu_cache_usage_perc cache_config_info"
    plain += " avg_prompt_throughput_toks_per_s avg_generation_throughput_toks_per_s"
    counters = "prompt_tokens generation_tokens prefix_cache_queries prefix_cache_hits num_preemptions request_success"
    histograms = (
        "time_to_first_token_seconds inter_token_latency_seconds request_time_per_output_token_seconds "
        "e2e_request_latency_seconds request_queue_time_seconds request_inference_time_seconds "
        "request_prefill_time_seconds request_decode_time_seconds request_prompt_tokens request_generation_tokens "
        "iteration_tokens_total request_params_n request_params_max_tokens request_max_num_generation_tokens"
    )
    assert names >= {f"vllm:{name}" for name in plain.split()}
    assert names >= {f"vllm:{name}_total" for name in counters.split()}
    assert names >= {f"vllm:{name}_{end}" for name in histograms.split() for end in ("bucket", "sum", "count")}
    assert "process_resident_memory_bytes" in names


async def test_requests_are_counted_by_route(client):
    await client.get("/v1/models/fake")
    await client.get("/v1/models/other")
    await client.get("/no/such/route")
    found = await scrape(client)

    def count(handler, status):
        return found["http_requests_total", (("handler", handler), ("method", "GET"), ("status", status))]

    assert count("/v1/models/{id:path}", "2xx") == count("/v1/models/{id:path}", "4xx") == 1
    assert count("none", "4xx") == 1


async def test_running_requests_are_seen(client, llm):
    llm.close_gate()
    body = {"messages": HI, "max_tokens": 2}
    task = asyncio.ensure_future(client.post("/v1/chat/completions", json=body))
    await llm.submitted.wait()
    llm.release()
    assert (await scrape(client))["vllm:num_requests_running", ()] == 1
    llm.release()
    await task
    assert (await scrape(client))["vllm:num_requests_running", ()] == 0


async def test_head_is_answered(client):
    answer = await client.head("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")


def test_a_histogram_counts_many_at_once():
    histogram = Histogram("x", "help", [1, 2])
    histogram.observe(1, 3)
    histogram.observe(1.5)
    histogram.observe(9, 2)
    samples = {(s.name, s.labels.get("le")): s.value for s in histogram.family({}).samples}
    assert samples == {
        ("x_bucket", "1.0"): 3,
        ("x_bucket", "2.0"): 4,
        ("x_bucket", "+Inf"): 6,
        ("x_count", None): 6,
        ("x_sum", None): 22.5,
    }
    assert one_two_five(50) == [1, 2, 5, 10, 20, 50]


def test_throughput_is_an_average_over_ten_seconds():
    throughput = Throughput()
    assert throughput.rate(100) == 0
    for second in range(100, 130):
        throughput.add(second + 0.5, 7)
    assert throughput.rate(129.9) == 7
    assert throughput.rate(134.9) == 7 * 5 / 10
    assert throughput.rate(200) == 0


def aborted(handle):
    request = Request(
        handle=handle, request_id="r", prompt=np.array([1], np.int32), params=SamplingParams(), max_total_tokens=9
    )
    return RequestOutput(request_id="r", prompt=None, prompt_token_ids=[1], finished=True), request


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_steady_steps_are_counted_as_any_others(data):
    """Against a count that looks at each token: sequences come, go, are aborted, pause, and get several tokens."""
    metrics = Metrics(FakeLLM(), "fake")
    last, num_tokens, waits, now = {}, 0, [], 0.0
    for _ in range(data.draw(st.integers(1, 15))):
        now += data.draw(st.sampled_from([0.0, 0.25, 1.0]))
        came = data.draw(st.sampled_from([[], [], [], [1], [2, 3], [4]]))
        last |= {handle: None for handle in came if handle not in last}
        handles = data.draw(st.just(sorted(last)) | st.lists(st.integers(1, 5), max_size=4))
        ended = data.draw(st.sampled_from([[], [], [], [1], [3]]))
        metrics.on_step(
            StepOutput(
                handles=handles,
                token_ids=[7] * len(handles),
                time_s=now,
                started=[Started(handle, 0, now) for handle in came],
                finished=[Finished(handle, FinishReason.LENGTH) for handle in ended],
            )
        )
        for handle in (handle for handle in handles if handle in last):
            waits += [now - last[handle]] if last[handle] is not None else []
            last[handle] = now
            num_tokens += 1
        gone = data.draw(st.sampled_from([[], [], [], [2]]))
        for handle in gone:
            metrics.on_request_finished(*aborted(handle))
        for handle in (*ended, *gone):
            last.pop(handle, None)
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }
    assert samples["vllm:generation_tokens_total"] == num_tokens
    assert samples["vllm:inter_token_latency_seconds_count"] == len(waits)
    assert samples["vllm:inter_token_latency_seconds_sum"] == sum(waits)
