"""The engine in its own process, through AsyncLLM: answers, aborts, deaths."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from quire import LLM, AsyncLLM, SamplingParams
from quire.core.errors import Asleep, Conflict, CorruptCheckpoint, EngineDead, InvalidRequest, Overloaded, PromptTooLong
from quire.core.keywords import engine_config
from quire.core.outputs import OutputKind
from quire.engine.client import EngineProcess
from quire.engine.request_stream import RequestStream

PROMPTS = [list(range(2 + i, 20 + 3 * i)) for i in range(8)]
PARAMS = SamplingParams(temperature=0.8, seed=3, max_tokens=10, ignore_eos=True)
LONG = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)


@asynccontextmanager
async def started(path: Path, **settings: object) -> AsyncIterator[AsyncLLM]:
    llm = await AsyncLLM.start(str(path), **({"max_model_len": 512, "num_gpu_blocks_override": 200} | settings))
    try:
        yield llm
    finally:
        await llm.close()


async def settled(llm: AsyncLLM) -> None:
    """Nothing is held and all adds up, at the latest a moment after the last abort was sent."""
    done = await llm.control.check()
    assert done.error == ""
    assert done.num_held_blocks == 0


def test_same_tokens_as_inline(tiny_checkpoint: Callable[[str], Path]) -> None:
    path = tiny_checkpoint("llama")
    inline = LLM(str(path), max_model_len=512, num_gpu_blocks_override=200).generate(PROMPTS, PARAMS, use_tqdm=False)

    async def main() -> list[tuple[str, list[int]]]:
        async with started(path) as llm:

            async def one(prompt: list[int], kind: OutputKind) -> tuple[str, list[int]]:
                text, ids = "", []
                async for output in llm.generate(prompt, PARAMS, kind=kind):
                    completion = output.outputs[0]
                    if kind is OutputKind.DELTA:
                        text, ids = text + completion.text, [*ids, *completion.token_ids]
                    else:
                        text, ids = completion.text, list(completion.token_ids)
                return text, ids

            kinds = list(OutputKind)
            results = await asyncio.gather(*(one(p, kinds[i % len(kinds)]) for i, p in enumerate(PROMPTS)))
            await settled(llm)
            return results

    expected = [(o.outputs[0].text, list(o.outputs[0].token_ids)) for o in inline]
    assert asyncio.run(main()) == expected


def test_abort_at_any_moment_frees_everything(tiny_checkpoint: Callable[[str], Path]) -> None:
    async def main() -> None:
        async with started(tiny_checkpoint("llama")) as llm:
            for steps in range(5):
                streams = [await llm.submit(prompt, LONG) for prompt in PROMPTS]
                for stream in streams:
                    for _ in range(steps):
                        await anext(stream)
                    stream.abort()
                    stream.abort()
                    outputs = [output async for output in stream]
                    assert outputs[-1].outputs[0].finish_reason == "abort"
                await settled(llm)
            assert llm.num_unfinished == 0

    asyncio.run(main())


def test_bad_requests_are_refused_at_the_door(tiny_checkpoint: Callable[[str], Path]) -> None:
    async def main() -> None:
        async with started(tiny_checkpoint("llama"), max_num_queued_reqs=1) as llm:
            vocab = llm.info.vocab_size
            with pytest.raises(InvalidRequest, match="empty"):
                await llm.submit([], PARAMS)
            with pytest.raises(InvalidRequest, match=f"{vocab} at position 1"):
                await llm.submit([5, vocab], PARAMS)
            with pytest.raises(PromptTooLong, match="512"):
                await llm.submit([5] * 512, PARAMS)
            with pytest.raises(InvalidRequest, match="logit_bias"):
                await llm.submit([5], SamplingParams(logit_bias={vocab: 1.0}))
            with pytest.raises(InvalidRequest, match="max-logprobs"):
                await llm.submit([5], SamplingParams(logprobs=21))
            with pytest.raises(Overloaded) as refused:
                for _ in range(3):
                    await llm.submit([5], LONG)
            assert refused.value.retry_after_s
            llm.abort_all()
            await settled(llm)

    asyncio.run(main())


def test_pause_and_sleep(tiny_checkpoint: Callable[[str], Path]) -> None:
    """While paused nothing comes and requests queue; asleep they are refused; afterwards the tokens are the same."""

    async def tokens(stream: RequestStream) -> list[int]:
        return [token async for output in stream for token in output.outputs[0].token_ids]

    async def main() -> None:
        async with started(tiny_checkpoint("llama")) as llm:
            control = llm.control
            expected = await tokens(await llm.submit(PROMPTS[0], LONG))
            stream = await llm.submit(PROMPTS[0], LONG)
            head = list((await anext(stream)).outputs[0].token_ids)
            await control.pause("keep")
            assert control.is_paused and not control.is_sleeping
            queued = await llm.submit(PROMPTS[0], LONG)
            assert (await control.check()).is_paused
            await control.sleep(1, "keep")
            assert control.is_sleeping and llm.stats.num_running == 0 and llm.stats.num_waiting == 2
            with pytest.raises(Asleep) as refused:
                await llm.submit(PROMPTS[0], PARAMS)
            assert refused.value.retry_after_s
            with pytest.raises(Conflict):
                await control.resume()
            await control.wake_up()
            assert not control.is_paused and not control.is_sleeping
            assert head + await tokens(stream) == expected
            assert await tokens(queued) == expected
            await settled(llm)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_modes_of_pausing(tiny_checkpoint: Callable[[str], Path]) -> None:
    async def main() -> None:
        async with started(tiny_checkpoint("llama")) as llm:
            stream = await llm.submit(PROMPTS[0], LONG)
            await llm.control.pause("abort")
            outputs = [output async for output in stream]
            assert outputs[-1].outputs[0].finish_reason == "abort"
            assert (await llm.control.check()).num_cached_blocks == 0
            await llm.control.resume()
            stream = await llm.submit(PROMPTS[0], LONG)
            pausing = asyncio.ensure_future(llm.control.pause("wait"))
            outputs = [output async for output in stream]
            assert outputs[-1].outputs[0].finish_reason == "length"
            await pausing
            assert llm.control.is_paused
            await llm.control.resume()
            stream = await llm.submit(PROMPTS[0], LONG)
            sleeping = asyncio.ensure_future(llm.control.sleep(1, "wait"))
            await asyncio.sleep(0)
            with pytest.raises(Asleep):
                await llm.submit(PROMPTS[0], PARAMS)
            await llm.control.wake_up()
            with pytest.raises(Conflict):
                await sleeping
            assert not llm.control.is_paused
            await (await llm.submit(PROMPTS[0], PARAMS)).__anext__()
            llm.abort_all()
            assert await llm.control.reset_prefix_cache()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_killed_engine_fails_its_requests(tiny_checkpoint: Callable[[str], Path]) -> None:
    async def main() -> None:
        async with started(tiny_checkpoint("llama")) as llm:
            stream = await llm.submit(PROMPTS[0], LONG)
            await anext(stream)
            os.kill(llm.engine_pid, signal.SIGKILL)
            with pytest.raises(EngineDead):
                async for _ in stream:
                    pass
            assert llm.failure is not None
            with pytest.raises(EngineDead):
                await llm.submit(PROMPTS[0], LONG)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_whoever_comes_before_the_death_is_heard_of(tiny_checkpoint: Callable[[str], Path]) -> None:
    """The loop may be busy: requests fail like those that ran, and aborts are harmless."""

    async def main() -> None:
        async with started(tiny_checkpoint("llama")) as llm:
            streams = [await llm.submit(PROMPTS[0], LONG)]
            os.kill(llm.engine_pid, signal.SIGKILL)
            os.waitid(os.P_PID, llm.engine_pid, os.WEXITED | os.WNOWAIT)
            streams += [await llm.submit(PROMPTS[0], LONG) for _ in range(3)]
            assert llm.failure is None
            streams.pop().abort()
            with pytest.raises(EngineDead):
                await llm.control.check()
            for stream in streams:
                with pytest.raises(EngineDead):
                    async for _ in stream:
                        pass
            with pytest.raises(EngineDead):
                await llm.submit(PROMPTS[0], LONG)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_nothing_is_taken_once_it_is_told_to_close(tiny_checkpoint: Callable[[str], Path]) -> None:
    async def main() -> None:
        async with started(tiny_checkpoint("llama")) as llm:
            stream = await llm.submit(PROMPTS[0], LONG)
            closing = asyncio.ensure_future(llm.close())
            for _ in range(2):
                await asyncio.sleep(0)
                with pytest.raises(EngineDead, match="closed"):
                    await llm.submit(PROMPTS[0], LONG)
                with pytest.raises(EngineDead, match="closed"):
                    await llm.control.check()
                await closing
            with pytest.raises(EngineDead, match="closed"):
                await anext(stream)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_an_engine_is_told_to_end_though_a_copy_of_its_socket_stays_open(
    tiny_checkpoint: Callable[[str], Path],
) -> None:
    """As processes have that are forked meanwhile."""

    async def main() -> None:
        path = tiny_checkpoint("llama")
        config = engine_config({"model": str(path)})
        process = EngineProcess(config)
        with process.socket.dup():
            llm = await AsyncLLM.attach(config, path, process)
            await llm.close()
        assert process.popen.returncode == 0, "it was not killed"

    asyncio.run(asyncio.wait_for(main(), 60))


def test_nothing_is_left_open_when_closing_is_cancelled(tiny_checkpoint: Callable[[str], Path]) -> None:
    """An open socket would have this process wait for ever at its end."""

    async def main() -> None:
        async with started(tiny_checkpoint("llama")) as llm:
            os.kill(llm.engine_pid, signal.SIGSTOP)
            closing = asyncio.ensure_future(llm.close())
            await asyncio.sleep(0)
            os.kill(llm.engine_pid, signal.SIGCONT)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing

    def num_open() -> int:
        return len(os.listdir("/proc/self/fd"))

    asyncio.run(asyncio.wait_for(main(), 60))
    num_before = num_open()
    asyncio.run(asyncio.wait_for(main(), 60))
    assert num_open() == num_before


def test_an_engine_that_cannot_start_says_why(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source = tiny_checkpoint("llama")
    for file in source.iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)

    async def main() -> None:
        with pytest.raises(CorruptCheckpoint, match=r"model\.safetensors"):
            await AsyncLLM.start(str(tmp_path))

    asyncio.run(asyncio.wait_for(main(), 60))
