"""A tap does not change the text: what it takes and what becomes Updates are, in their order, what would be anyway."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from quire.core.outputs import OutputKind
from quire.core.request import Request
from quire.core.sampling_params import SamplingParams
from quire.core.step import Finished, FinishReason, Started, StepOutput
from quire.engine.assembler import Assembler, Update
from quire.text.tokenizer import Tokenizer

EOS = 0
HANDLES = (10, 20)


def byte_tokenizer() -> Tokenizer:
    """Every byte is a token, so most tokens are parts of characters; then some whole ones, and a special one."""
    words = ["\u2581the", "\u2581é", "ab", "\n", "\u2581"]
    vocab = {"</s>": EOS, **{f"<0x{byte:02X}>": 1 + byte for byte in range(256)}}
    vocab |= {word: 257 + i for i, word in enumerate(words)}
    backend = Backend(models.BPE(vocab, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["</s>"])
    return Tokenizer(backend, {"eos_token": "</s>"})


TOKENIZER = byte_tokenizer()
TOKENS = st.one_of(st.integers(257, 261), st.sampled_from([ord("a") + 1, ord("b") + 1]), st.integers(0, 256))


class Taking:
    """A tap that takes as long as it is open."""

    def __init__(self, heard: list[tuple[str, list[int]]]) -> None:
        self.heard = heard
        self.is_open = True
        self.num_taken = 0

    def take(self, text: str, token_ids: Sequence[int]) -> bool:
        if self.is_open:
            self.heard.append((text, list(token_ids)))
            self.num_taken += 1
        return self.is_open


class Clients:
    """Two requests of one assembler; ``heard``: by handle, all that came of each, whichever way."""

    def __init__(self, kind: OutputKind = OutputKind.DELTA, **params: Any) -> None:
        self.assembler = Assembler(TOKENIZER, (EOS,))
        self.heard: dict[int, list[tuple[str, list[int]]]] = {handle: [] for handle in HANDLES}
        self.taps = {handle: Taking(self.heard[handle]) for handle in HANDLES}
        self.updates: list[Update] = []
        self.requests = [
            Request(
                handle=handle,
                request_id=str(handle),
                prompt=np.array([ord("x") + 1], np.int32),
                params=SamplingParams(max_tokens=99, **params),
                max_total_tokens=99,
            )
            for handle in HANDLES
        ]
        for request in self.requests:
            self.assembler.add(request, None, kind)
        started = [Started(request.handle, 0, 0.0) for request in self.requests]
        self.assembler.process(StepOutput(handles=[], token_ids=[], time_s=0.0, started=started))

    def step(
        self, rows: Sequence[tuple[int, int]], finished: Sequence[Finished] = (), time_s: float = 0.0
    ) -> list[int]:
        """The handles that ended here."""
        updates, cut = self.assembler.process(
            StepOutput(
                handles=[handle for handle, _ in rows],
                token_ids=[token for _, token in rows],
                time_s=time_s,
                finished=list(finished),
            )
        )
        self.note(updates)
        return cut

    def note(self, updates: Sequence[Update]) -> None:
        self.updates += updates
        for update in updates:
            for choice in update.output.outputs:
                self.heard[update.handle].append((choice.text, list(choice.token_ids)))

    def text(self, handle: int) -> str:
        return "".join(text for text, _ in self.heard[handle])

    def tokens(self, handle: int) -> list[int]:
        return [token for _, tokens in self.heard[handle] for token in tokens]


@settings(max_examples=300, deadline=None)
@given(data=st.data(), stop=st.sampled_from([None, ["the"], ["ab", "é\n"]]))
def test_tapped_or_not_the_same_text(data: st.DataObject, stop: list[str] | None) -> None:
    tapped, plain = Clients(stop=stop), Clients(stop=stop)
    live = set(HANDLES)
    for _ in range(data.draw(st.integers(1, 12))):
        for handle, tap in tapped.taps.items():
            tap.is_open = data.draw(st.booleans() | st.just(True))
            match data.draw(st.sampled_from(["keep", "tap", "tap", "untap", "look"])):
                case "tap":
                    tapped.assembler.tap(handle, tap)
                case "untap":
                    tapped.assembler.tap(handle, None)
                case "look":
                    assert [(one.num_generated, one.has_new_line) for one in tapped.assembler.live_sequences()] == [
                        (one.num_generated, one.has_new_line) for one in plain.assembler.live_sequences()
                    ]
        rows = data.draw(st.lists(st.tuples(st.sampled_from(HANDLES), TOKENS), max_size=5))
        rows = [row for row in rows if row[0] in live]
        ending = data.draw(st.sets(st.sampled_from(HANDLES))) & live if data.draw(st.booleans()) else set()
        finished = [Finished(handle, FinishReason.LENGTH) for handle in sorted(ending)]
        cut = tapped.step(rows, finished)
        assert cut == plain.step(rows, finished)
        live -= ending | set(cut)
        for handle in HANDLES:
            assert tapped.text(handle) == plain.text(handle)
            assert tapped.tokens(handle) == plain.tokens(handle)
    ends = [[update.total for update in one.updates if update.ended is not None] for one in (tapped, plain)]
    assert ends[0] == ends[1]


def test_what_is_only_a_text_makes_no_updates() -> None:
    clients = Clients()
    clients.step([(10, 257), (20, 257)])
    for handle, tap in clients.taps.items():
        clients.assembler.tap(handle, tap)
    clients.step([(10, 258), (20, 259)])
    clients.step([(10, 0xC3 + 1), (20, 260)])
    assert [one.has_new_line for one in clients.assembler.live_sequences()] == [False, True]
    clients.step([(10, 0xA9 + 1), (20, 0xC3 + 1)])
    clients.step([(10, 261), (20, 259)])
    assert len(clients.updates) == 2, "the first ones"
    assert clients.heard[10] == [(" the", [257]), (" é", [258]), ("", [0xC4]), ("é", [0xAA]), (" ", [261])]
    assert clients.text(20) == " theab\n\ufffdab"


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (OutputKind.CUMULATIVE, {}),
        (OutputKind.FINAL, {}),
        (OutputKind.DELTA, {"n": 2}),
        (OutputKind.DELTA, {"prompt_logprobs": 1}),
    ],
)
def test_who_is_told_more_than_a_text_is_not_tapped(kind: OutputKind, params: dict[str, Any]) -> None:
    clients = Clients(kind, **params)
    clients.step([(10, 257)])
    clients.assembler.tap(10, clients.taps[10])
    clients.step([(10, 258)])
    assert not clients.taps[10].num_taken


def test_an_end_from_this_side_tells_all_and_when_it_came() -> None:
    clients = Clients()
    clients.step([(10, 257)], time_s=1.0)
    clients.assembler.tap(10, clients.taps[10])
    clients.step([(10, 258)], time_s=2.0)
    clients.step([(20, 258)], time_s=3.0)
    update, handles = clients.assembler.abort(clients.requests[0], FinishReason.ABORT, 4.0)
    assert handles == [10] and update is not None and update.total is not None
    assert update.output.outputs[0].text == "" and update.total.outputs[0].text == " the é"
    assert update.total.metrics is not None
    assert (update.total.metrics.last_token_s, update.total.metrics.finished_s) == (2.0, 4.0)
    clients.assembler.tap(10, clients.taps[10])  # too late, and harmless
    clients.step([(10, 258)])
    assert clients.taps[10].num_taken == 1
