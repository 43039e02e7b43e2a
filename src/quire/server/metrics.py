"""What ``/metrics`` tells: vLLM's names, labels and buckets, so that dashboards made for it work.

Lives in the HTTP process, hears of every step and of every request's end. A step of the same sequences as the one
before costs one histogram entry, another one a dictionary access a token as well. Counts of tokens are of those that a
client was told; throughputs are averages over the last ten seconds.
"""

import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import prometheus_client as prometheus
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from quire.core.outputs import RequestOutput
from quire.core.request import Request
from quire.core.step import FinishReason, StepOutput
from quire.server.histogram import Histogram, one_two_five

if TYPE_CHECKING:
    from quire.engine.async_llm import AsyncLLM

_LATENCY = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_STEP = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_WINDOW_S = 10


class Throughput:
    """Tokens a second over the last ten seconds, in bins of one second."""

    def __init__(self) -> None:
        self._bins: deque[list[int]] = deque(maxlen=_WINDOW_S + 1)

    def add(self, time_s: float, count: int) -> None:
        second = int(time_s)
        if not self._bins or self._bins[-1][0] != second:
            self._bins.append([second, 0])
        self._bins[-1][1] += count

    def rate(self, time_s: float) -> float:
        return sum(count for second, count in self._bins if time_s - _WINDOW_S < second <= time_s) / _WINDOW_S


class Metrics:
    """One application's registry. Owned by its Service, which no other process shares."""

    def __init__(self, llm: "AsyncLLM", model_name: str) -> None:
        self._llm = llm
        self._labels = {"model_name": model_name, "engine": "0"}
        self._token_times: dict[int, float | None] = {}
        """Handle of a running sequence -> when its last token came, but for those that are steady."""
        self._steady: list[int] = []
        self._steady_s = 0.0
        """Sequences that each got one token in the step then, and that did not end."""
        self._prompt_rate, self._generation_rate = Throughput(), Throughput()
        self._num_computed = llm.stats.num_prompt_tokens
        self._num_prompt_tokens = self._num_cached_tokens = self._num_generation_tokens = 0
        self._ended: Counter[str] = Counter()
        self._make_histograms()
        self.registry = prometheus.CollectorRegistry()
        self.registry.register(self)
        prometheus.ProcessCollector(registry=self.registry)
        self.http_requests = prometheus.Counter(
            "http_requests_total",
            "Total number of requests by method, status and handler.",
            ("handler", "method", "status"),
            registry=self.registry,
        )
        self.http_duration = prometheus.Histogram(
            "http_request_duration_seconds",
            "Latency by handler.",
            ("handler", "method"),
            buckets=(0.1, 0.5, 1),
            registry=self.registry,
        )
        llm.watch(self)

    def _make_histograms(self) -> None:
        lengths = one_two_five(self._llm.info.max_model_len)
        self._histograms: list[Histogram] = []

        def make(name: str, help: str, bounds: Iterable[float]) -> Histogram:
            self._histograms.append(Histogram(f"vllm:{name}", help, list(bounds)))
            return self._histograms[-1]

        self._prompt = make("request_prompt_tokens", "Number of prefill tokens processed.", lengths)
        self._generation = make("request_generation_tokens", "Number of generation tokens processed.", lengths)
        self._step = make("iteration_tokens_total", "Histogram of number of tokens per engine_step.", _STEP)
        self._longest = make(
            "request_max_num_generation_tokens",
            "Histogram of maximum number of requested generation tokens.",
            lengths,
        )
        self._n = make("request_params_n", "Histogram of the n request parameter.", (1, 2, 5, 10, 20))
        self._max_tokens = make("request_params_max_tokens", "Histogram of the max_tokens request parameter.", lengths)
        self._first = make("time_to_first_token_seconds", "Histogram of time to first token in seconds.", _FIRST_TOKEN)
        self._between = make("inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", _TOKEN)
        self._per_token = make(
            "request_time_per_output_token_seconds", "Histogram of time_per_output_token_seconds per request.", _TOKEN
        )
        self._whole = make("e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", _LATENCY)
        self._queue = make("request_queue_time_seconds", "Histogram of time spent in WAITING phase.", _LATENCY)
        self._running = make("request_inference_time_seconds", "Histogram of time spent in RUNNING phase.", _LATENCY)
        self._prefill = make("request_prefill_time_seconds", "Histogram of time spent in PREFILL phase.", _LATENCY)
        self._decode = make("request_decode_time_seconds", "Histogram of time spent in DECODE phase.", _LATENCY)
        self._computed = make(
            "request_prefill_kv_computed_tokens",
            "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
            lengths,
        )

    def on_step(self, step: StepOutput) -> None:
        """Count a step's tokens and how long each was waited for."""
        now, is_steady = step.time_s, not (step.started or step.finished)
        if is_steady and step.handles == self._steady:
            num_tokens = len(step.handles)
            self._between.observe(now - self._steady_s, num_tokens)
        else:
            self._unsettle()
            num_tokens = self._count_tokens(step)
            if is_steady and num_tokens == len(step.handles) == len(set(step.handles)):
                self._steady = step.handles
        self._steady_s = now
        self._num_generation_tokens += num_tokens
        self._generation_rate.add(now, num_tokens)
        if step.stats is not None:
            if step.stats.step_tokens:
                self._step.observe(step.stats.step_tokens)
            # an engine that was started again counts from nothing
            computed = step.stats.num_prompt_tokens - self._num_computed
            self._prompt_rate.add(now, computed if computed >= 0 else step.stats.num_prompt_tokens)
            self._num_computed = step.stats.num_prompt_tokens

    def _count_tokens(self, step: StepOutput) -> int:
        """Those whose clients still want them."""
        times, now = self._token_times, step.time_s
        for started in step.started:
            times.setdefault(started.handle, None)
        waits: dict[float, int] = {}
        num_tokens = 0
        for handle in step.handles:
            if handle not in times:
                continue  # its client has what it wanted
            before, times[handle] = times[handle], now
            num_tokens += 1
            if before is not None:
                waits[now - before] = waits.get(now - before, 0) + 1
        for wait_s, count in waits.items():
            self._between.observe(wait_s, count)
        for finished in step.finished:
            times.pop(finished.handle, None)
        return num_tokens

    def _unsettle(self) -> None:
        self._token_times.update(dict.fromkeys(self._steady, self._steady_s))
        self._steady = []

    def on_request_finished(self, output: RequestOutput, request: Request) -> None:
        """Count a request and the phases of its life; ``output`` is all of it."""
        self._unsettle()
        for handle in range(request.handle, request.handle + request.params.n):
            self._token_times.pop(handle, None)
        self._ended[_reason(output)] += 1
        lengths = [len(choice.token_ids) for choice in output.outputs]
        num_prompt, num_cached = len(output.prompt_token_ids), output.num_cached_tokens or 0
        self._n.observe(request.params.n)
        self._max_tokens.observe(request.max_total_tokens - len(request.prompt))
        times = output.metrics
        if times is None:
            return
        if times.finished_s is not None:
            self._whole.observe(times.finished_s - times.arrival_s)
        if times.scheduled_s is None:
            return
        self._queue.observe(times.scheduled_s - times.arrival_s)
        if times.first_token_s is None or times.last_token_s is None:
            return
        self._num_prompt_tokens += num_prompt
        self._num_cached_tokens += num_cached
        self._prompt.observe(num_prompt)
        self._computed.observe(num_prompt - num_cached)
        self._generation.observe(sum(lengths))
        self._longest.observe(max(lengths))
        self._first.observe(times.first_token_s - times.arrival_s)
        self._prefill.observe(times.first_token_s - times.scheduled_s)
        self._running.observe(times.last_token_s - times.scheduled_s)
        self._decode.observe(times.last_token_s - times.first_token_s)
        if max(lengths) > 1:
            self._per_token.observe((times.last_token_s - times.first_token_s) / (max(lengths) - 1))

    def collect(self) -> Iterable[Metric]:
        """Everything of the engine as it is now, for the registry."""
        stats, now = self._llm.stats, time.monotonic()
        yield self._gauge("num_requests_running", "Number of requests in model execution batches.", stats.num_running)
        yield self._gauge("num_requests_waiting", "Number of requests waiting to be processed.", stats.num_waiting)
        yield self._gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", stats.kv_usage)
        yield self._gauge("gpu_cache_usage_perc", "Old name of kv_cache_usage_perc.", stats.kv_usage)
        yield self._gauge(
            "avg_prompt_throughput_toks_per_s", "Average prefill throughput in tokens/s.", self._prompt_rate.rate(now)
        )
        yield self._gauge(
            "avg_generation_throughput_toks_per_s",
            "Average generation throughput in tokens/s.",
            self._generation_rate.rate(now),
        )
        yield self._counter("prefix_cache_queries", "Prefix cache queries, in tokens.", stats.prefix_queries)
        yield self._counter("prefix_cache_hits", "Prefix cache hits, in tokens.", stats.prefix_hits)
        yield self._counter("num_preemptions", "Cumulative number of preemptions.", stats.num_preemptions)
        yield self._counter("prompt_tokens", "Number of prefill tokens processed.", self._num_prompt_tokens)
        yield self._counter("prompt_tokens_cached", "Number of cached prompt tokens.", self._num_cached_tokens)
        yield self._counter("generation_tokens", "Number of generation tokens processed.", self._num_generation_tokens)
        yield self._successes()
        yield self._sleep_state()
        for histogram in self._histograms:
            yield histogram.family(self._labels)
        settings = self._llm.info.cache_config | {"num_gpu_blocks": str(self._llm.info.num_blocks)}
        # A gauge and no Info metric: its sample is cache_config_info itself.
        info = GaugeMetricFamily(
            "vllm:cache_config_info", "Information of the engine's cache configuration", labels=[*settings, "engine"]
        )
        info.add_metric([*settings.values(), "0"], 1)
        yield info

    def generation_rate(self) -> float:
        """Tokens a second that were generated lately."""
        return self._generation_rate.rate(time.monotonic())

    def text(self) -> bytes:
        """The registry in Prometheus' text format."""
        return prometheus.generate_latest(self.registry)

    def _gauge(self, name: str, help: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", help, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), value)
        return family

    def _counter(self, name: str, help: str, value: float) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", help, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), value)
        return family

    def _sleep_state(self) -> Metric:
        level = self._llm.control.sleep_level
        family = GaugeMetricFamily(
            "vllm:engine_sleep_state",
            "Whether the engine is awake, or what it gave back.",
            labels=[*self._labels, "sleep_state"],
        )
        for state, is_on in (("awake", level <= 0), ("weights_offloaded", level == 1), ("discard_all", level == 2)):
            family.add_metric([*self._labels.values(), state], is_on)
        return family

    def _successes(self) -> Metric:
        family = CounterMetricFamily(
            "vllm:request_success",
            "Count of successfully processed requests.",
            labels=[*self._labels, "finished_reason"],
        )
        for reason in FinishReason:
            family.add_metric([*self._labels.values(), reason.value], self._ended[reason.value])
        return family


def _reason(output: RequestOutput) -> str:
    """The worst of its continuations' ends."""
    reasons = {choice.finish_reason for choice in output.outputs}
    worst = (FinishReason.ERROR, FinishReason.ABORT, FinishReason.LENGTH, FinishReason.REPETITION)
    return next((reason.value for reason in worst if reason in reasons), FinishReason.STOP.value)
