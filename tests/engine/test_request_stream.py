"""Whoever reads slowly gets the same text in fewer pieces."""

import asyncio

import numpy as np
import pytest

from quire.core.errors import EngineDead
from quire.core.outputs import CompletionOutput, Logprob, RequestOutput
from quire.core.request import Request
from quire.core.sampling_params import SamplingParams
from quire.engine.assembler import OutputKind
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


def test_what_was_missed_is_merged() -> None:
    async def main() -> list[RequestOutput]:
        stream = RequestStream(REQUEST, OutputKind.DELTA, lambda request: None)
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
        stream = RequestStream(REQUEST, OutputKind.DELTA, lambda request: None)
        stream.put(delta(0, "ab"))
        stream.fail(EngineDead("gone"))
        assert (await anext(stream)).outputs[0].text == "ab"
        with pytest.raises(EngineDead, match="gone"):
            await anext(stream)

    asyncio.run(main())


def test_abort_is_sent_while_it_matters() -> None:
    async def main() -> list[int]:
        aborted: list[int] = []
        stream = RequestStream(REQUEST, OutputKind.CUMULATIVE, lambda request: aborted.append(request.handle))
        stream.put(delta(0, "ab"))
        stream.abort()
        stream.put(delta(0, "abc", end="abort", finished=True))
        stream.abort()
        return aborted

    assert asyncio.run(main()) == [1]


def test_what_is_tapped_comes_at_once_and_in_order() -> None:
    """Only while the reader waits, having done with all that came before; what is declined, and the end, it reads."""

    async def main() -> None:
        stream = RequestStream(REQUEST, OutputKind.DELTA, lambda request: None)
        heard: list[str] = []
        is_open = True

        def take(output: RequestOutput) -> bool:
            if is_open:
                heard.append(f"tap {output.outputs[0].text}")
            return is_open

        stream.tap(take)
        stream.put(delta(0, "a"))
        assert heard == [], "nobody waits yet, so a reader may be busy with what came before"
        heard.append(f"read {(await anext(stream)).outputs[0].text}")
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        stream.put(delta(0, "b"))
        is_open = False
        stream.put(delta(0, "c"))
        is_open = True
        stream.put(delta(0, "d"))
        heard.append(f"read {(await waiting).outputs[0].text}")
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        stream.put(delta(0, "e", end="stop", finished=True))
        heard.append(f"read {(await waiting).outputs[0].text}")
        assert heard == ["read a", "tap b", "read cd", "read e"]

    asyncio.run(main())


def test_what_fails_in_a_tap_is_the_readers_to_hear() -> None:
    async def main() -> None:
        stream = RequestStream(REQUEST, OutputKind.DELTA, lambda request: None)

        def take(output: RequestOutput) -> bool:
            raise ZeroDivisionError

        stream.tap(take)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        stream.put(delta(0, "a"))
        with pytest.raises(ZeroDivisionError):
            await waiting

    asyncio.run(main())
