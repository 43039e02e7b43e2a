"""Values survive the crossing between processes; nothing else gets in."""

import msgspec
import numpy as np
import pytest

from quire.core.codec import Decoder, encode
from quire.core.messages import Add, Died, FromEngine, Step, ToEngine
from quire.core.request import Request
from quire.core.sampling_params import SamplingParams
from quire.core.step import EngineStats, Finished, FinishReason, PromptLogprobs, Started, StepOutput, TopLogprobs

TO_ENGINE: Decoder[ToEngine] = Decoder(ToEngine)
FROM_ENGINE: Decoder[FromEngine] = Decoder(FromEngine)


def top(*ids: int) -> TopLogprobs:
    return TopLogprobs(np.array(ids, np.int32), np.linspace(-1, -2, len(ids), dtype=np.float32), (1,))


def test_a_request_crosses_whole() -> None:
    params = SamplingParams(stop=["a", "b"], logit_bias={"5": 1}, allowed_token_ids=[1, 2], seed=2**62, top_k=-1)
    request = Request(
        handle=2**40,
        request_id="x",
        prompt=np.arange(5, dtype=np.int32),
        params=params,
        max_total_tokens=10,
        seed=2**64 - 1,
        bad_word_ids=((1, 2), (3,)),
    )
    message = TO_ENGINE.decode(encode(Add(request)))
    assert isinstance(message, Add)
    assert message.request.params == params
    assert message.request.prompt.tolist() == [0, 1, 2, 3, 4]
    assert (message.request.handle, message.request.seed) == (2**40, 2**64 - 1)
    assert message.request.bad_word_ids == ((1, 2), (3,))


def test_a_step_crosses_whole() -> None:
    step = StepOutput(
        handles=[2**40, 3],
        token_ids=[7, 8],
        time_s=1.5,
        started=[Started(3, 16, 1.0)],
        finished=[Finished(3, FinishReason.STOP, 8), Finished(4, FinishReason.ERROR, error="no")],
        logprobs={1: top(8, 9)},
        prompt_logprobs={3: PromptLogprobs(1, [top(4, 5), top(6)])},
        stats=EngineStats(num_running=2, kv_usage=0.5),
    )
    message = FROM_ENGINE.decode(encode(Step(step)))
    assert isinstance(message, Step)
    found = message.output
    assert (found.handles, found.token_ids) == ([2**40, 3], [7, 8])
    assert (found.started, found.finished, found.stats) == (step.started, step.finished, step.stats)
    assert found.logprobs[1].logprobs.tolist() == step.logprobs[1].logprobs.tolist()
    assert [len(entry.token_ids) for entry in found.prompt_logprobs[3].entries] == [2, 1]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"cposix\nsystem\n(S'true'\ntR.",
        encode(Died("x"))[:-1],
        msgspec.msgpack.encode({"type": "nonsense"}),
        msgspec.msgpack.encode({"type": "abort", "handles": "x"}),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        TO_ENGINE.decode(data)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x01",
        b"\x63\x01\x01\x00\x00\x00",  # no such type
        b"\x02\x01\xff\xff\xff\xff",  # four billion numbers in no bytes
        b"\x02\x01\x02\x00\x00\x00\x00\x00\x00\x00",  # two numbers, the bytes of one
        b"\x02\xff",  # 255 dimensions
    ],
)
def test_malformed_arrays_are_refused(body: bytes) -> None:
    data = msgspec.msgpack.encode(msgspec.msgpack.Ext(1, body))
    with pytest.raises(msgspec.DecodeError):
        Decoder[np.ndarray](np.ndarray).decode(data)


def test_objects_are_not_sent() -> None:
    with pytest.raises(TypeError):
        encode(object())
