"""The door for grammars: what a client asks for becomes a text that this model's engine can run, or a typed error.

Owns the process in which grammars are tried, and remembers what came of them. Every call may take a second or more:
off the event loop with it. Law: a text that leaves here was compiled, with this vocabulary and within the limits.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property

import msgspec

from quire.core.errors import InvalidRequest
from quire.core.structured_outputs import StructuredOutputs
from quire.text.grammar import faults, json_schema
from quire.text.grammar.cache import GrammarCache
from quire.text.grammar.compose import PATH, compose
from quire.text.grammar.ebnf import is_lark
from quire.text.grammar.lark import Piece
from quire.text.grammar.trial import Trial, Verdict
from quire.text.grammar.vocabulary import Vocabulary
from quire.text.tokenizer import Tokenizer

log = logging.getLogger("quire")

_MAX_CACHE_BYTES = 32 * 2**20
"""Of texts that were tried, and once more of shapes that were composed."""
_MAX_DROPS = 8
"""How often a lenient schema is tried again without what could not be enforced."""


class _Known(msgspec.Struct, frozen=True):
    """What came of a shape: a piece, or why there is none."""

    piece: Piece | None
    error: InvalidRequest | None = None


class GrammarDoor:
    """Checks grammars for one model. ``vocab_size``: how wide the model's logits are. Any thread may call."""

    def __init__(self, tokenizer: Tokenizer, eos_token_ids: Sequence[int], vocab_size: int | None = None) -> None:
        self._tokenizer = tokenizer
        self._trial = Trial(lambda: Vocabulary.of(tokenizer, eos_token_ids, vocab_size))
        self._verdicts: GrammarCache[Verdict] = GrammarCache(_MAX_CACHE_BYTES)
        self._shapes: GrammarCache[_Known] = GrammarCache(_MAX_CACHE_BYTES)

    @cached_property
    def special(self) -> Mapping[str, int]:
        """Ids of special tokens by their names, as grammars may name them."""
        names = {token: self._tokenizer.id_to_token(token) for token in sorted(self._tokenizer.special_token_ids)}
        return {name: token for token, name in names.items() if name}

    def check(self, wanted: StructuredOutputs) -> str:
        """The grammar of a whole answer of this shape, for ``Request.grammar``.

        Raises InvalidRequest or Unsupported, with a path under ``$.structured_outputs``.
        """
        return self.text(self.piece(wanted))

    def piece(self, wanted: StructuredOutputs) -> Piece:
        """The same as a part for larger grammars (``reply``), compiled once by itself."""
        key = json_schema.written(wanted, f"{PATH}.{wanted.shape}").encode()
        known = self._shapes.get(key)
        if known is None:
            try:
                known = _Known(self._compose(wanted))
            except InvalidRequest as error:
                known = _Known(None, error.with_traceback(None))
            self._shapes.put(key, known, 2 * len(key))
        if known.piece is None:
            assert known.error is not None
            raise type(known.error)(known.error.message, param=known.error.param)
        return known.piece

    def text(self, piece: Piece, path: str = PATH) -> str:
        """A whole grammar, for ``Request.grammar``. Raises InvalidRequest if it cannot be run."""
        text = piece.text()
        verdict = self._verdict(text)
        if verdict.error:
            raise faults.refusal(verdict.error, path, [])
        return text

    def close(self) -> None:
        """End the process that tries grammars."""
        self._trial.close()

    def _compose(self, wanted: StructuredOutputs) -> Piece:
        path = f"{PATH}.{wanted.shape}"
        for _ in range(_MAX_DROPS):
            piece = compose(wanted, self.special)
            verdict = self._verdict(piece.text())
            if not verdict.error:
                for warning in verdict.warnings:
                    log.debug("%s is not enforced as a whole: %s", path, faults.reason(warning))
                return piece
            wanted = self._dropped(wanted, verdict.error, path)
        raise InvalidRequest(f"{path} has too much that cannot be enforced: simplify it.", param=path)

    def _dropped(self, wanted: StructuredOutputs, error: str, path: str) -> StructuredOutputs:
        """A lenient schema without what cannot be enforced; raises InvalidRequest for anything else."""
        if wanted.shape != "json":
            where = faults.place(error) if is_lark(wanted.grammar or "") else ""
            raise faults.refusal(error, path, [], where=where)
        schema = json_schema.prepare(json_schema.read_schema(wanted.json, path), path, is_closed=False)
        found = faults.find_faults(error, schema, path)
        if not wanted.is_lenient or not found or faults.is_malformed(error):
            raise faults.refusal(error, path, found)
        for dropped in faults.drop(found):
            log.debug("%s is not enforced: %s", dropped, faults.reason(error))
        return msgspec.structs.replace(wanted, json=schema)

    def _verdict(self, text: str) -> Verdict:
        key = text.encode()
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = self._trial.verdict(text)
            self._verdicts.put(key, verdict, len(verdict.error))
        return verdict
