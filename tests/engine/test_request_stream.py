"""Whoever reads slowly gets the same text in fewer pieces."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from quire.core.errors import EngineDead
from quire.core.outputs import CompletionOutput, Logprob, OutputKind, RequestOutput
from quire.core.request import Request
from quire.core.sampling_params import SamplingParams
from quire.engine.continuation import Tap
from quire.engine.request_stream import RequestStream

REQUEST = Request(
    handle=1, request_id="r", prompt=np.array([1], np.int32), params=SamplingParams(n=2), max_total_tokens=9
)


def delta(index: int, text: str, *, end: str | None = None, finished: bool = False) -> RequestOutput:
    completion = CompletionOutput(
        index=index,
        text=text,
        token_ids=[ord(c) for c in text],
        logprobs=[{ord(c): Logprob(-1.0)} for c in text],
        finish_reason=end,
    )
    return RequestOutput(request_id="r", prompt=None, prompt_token_ids=[1], outputs=[completion], finished=finished)


def untapped(handle: int, tap: Tap | None) -> None:
    raise AssertionError("nobody taps it")


def test_what_was_missed_is_merged() -> None:
    async def main() -> list[RequestOutput]:
        stream = RequestStream(REQUEST, OutputKind.DELTA, lambda request: None, untapped)
        stream.put(delta(0, "ab"))
        first = await anext(stream)
        for piece in (delta(1, "x"), delta(0, "c"), delta(1, "yz", end="stop"), delta(0, "d", end="length")):
            stream.put(piece)
        stream.put(delta(0, "", end="length", finished=True))
        return [first, *[output async for output in stream]]

    first, rest = asyncio.run(main())
    assert first.outputs[0].text == "ab"
    assert [(c.index, c.text, c.finish_reason) for c in rest.outputs] == [(0, "cd", "length"), (1, "xyz", "stop")]
    assert list(rest.outputs[1].token_ids) == [ord(c) for c in "xyz"]
    assert len(rest.outputs[1].logprobs or []) == 3
    assert rest.finished


def test_a_failure_comes_after_what_was_known() -> None:
    async def main() -> None:
        stream = RequestStream(REQUEST, OutputKind.DELTA, lambda request: None, untapped)
        stream.put(delta(0, "ab"))
        stream.fail(EngineDead("gone"))
        assert (await anext(stream)).outputs[0].text == "ab"
        with pytest.raises(EngineDead, match="gone"):
            await anext(stream)

    asyncio.run(main())


def test_abort_is_sent_while_it_matters() -> None:
    async def main() -> list[int]:
        aborted: list[int] = []
        stream = RequestStream(REQUEST, OutputKind.CUMULATIVE, lambda request: aborted.append(request.handle), untapped)
        stream.put(delta(0, "ab"))
        stream.abort()
        stream.put(delta(0, "abc", end="abort", finished=True))
        stream.abort()
        return aborted

    assert asyncio.run(main()) == [1]


class NoTap:
    def take(self, text: str, token_ids: Sequence[int]) -> bool:
        return False


def test_a_tap_is_there_exactly_while_the_reader_waits() -> None:
    async def main() -> None:
        taps: list[Tap | None] = []
        stream = RequestStream(REQUEST, OutputKind.DELTA, lambda request: None, lambda handle, tap: taps.append(tap))
        tap = NoTap()
        stream.tap(tap)
        stream.put(delta(0, "a"))
        assert (await anext(stream)).outputs[0].text == "a"
        assert taps == [], "what has come is read first"
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        assert taps == [tap]
        stream.put(delta(0, "b"))
        await waiting
        assert taps == [tap, None]
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert taps == [tap, None, tap, None]

    asyncio.run(main())
