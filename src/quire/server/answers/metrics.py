"""How long an answer took, for clients whose server tells it."""

from typing import Any

from msgspec import UNSET

from quire.core.outputs import RequestMetrics
from quire.server.schema.common import AnswerMetrics


def metrics_of(times: RequestMetrics | None, num_tokens: int) -> dict[str, Any]:
    """The field that tells it, of a reply of so many tokens that is over; none for one that was never computed."""
    if times is None:
        return {}
    started, first, last = times.scheduled_s, times.first_token_s, times.last_token_s
    if started is None or first is None or last is None:
        return {}
    made_ms = 1000 * (last - first)
    metrics = AnswerMetrics(
        time_to_first_token_ms=1000 * (first - times.arrival_s),
        generation_time_ms=made_ms,
        queue_time_ms=1000 * (started - times.arrival_s),
        mean_itl_ms=made_ms / (num_tokens - 1) if num_tokens > 1 else UNSET,
        tokens_per_second=num_tokens / (last - started) if last > started else 0.0,
    )
    return {"metrics": metrics}
