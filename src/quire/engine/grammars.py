"""Compiled grammars: made on a thread beside the engine's loop, the last ones kept.

Owns the matchers' vocabulary, which is built when the first grammar comes: an engine without grammars pays nothing for
it. Lives in the engine process.

Matchers of one grammar share what its lexer has learnt, up to ``LLParserLimits.max_lexer_states``. So once one has met
a limit the grammar is forgotten here, and the sequence goes on with a matcher that it shares with nobody (``renewed``).
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from quire.decoding.grammar import GrammarVocabulary
from quire.decoding.guide import MAX_EXCESS_S, TOO_SLOW, Matcher, broken

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_COUNT = 64
MAX_CHARS = 4 * 2**20
"""Of the texts of all grammars that are kept; a grammar takes about 64 KiB, and 40 bytes for each character."""


class CompiledGrammars:
    """A ``Grammars`` for the sampler. ``compile`` and the sampler's calls come from the engine's loop."""

    def __init__(
        self, build_vocabulary: Callable[[], "LLTokenizer"], make_limits: Callable[[], "LLParserLimits"]
    ) -> None:
        self._build_vocabulary = build_vocabulary
        self._make_limits = make_limits
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()
        """By text, the one not used for longest first."""
        self._num_chars = 0
        self._lock = threading.Lock()  # of these two
        self._thread: ThreadPoolExecutor | None = None

    def __contains__(self, grammar: str) -> bool:
        with self._lock:
            return grammar in self._kept

    def compile(self, grammar: str, then: Callable[[str | None], None]) -> None:
        """Compile on the thread; ``then`` is called there, with what is wrong with the grammar, or None."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="quire-grammars")
        self._thread.submit(lambda: then(self._try(grammar)))

    def matcher(self, grammar: str) -> Matcher:
        """See Grammars.matcher. Compiles here and now what has been forgotten since it was asked for."""
        with self._lock:
            kept = self._kept.get(grammar)
            if kept is not None:
                self._kept.move_to_end(grammar)
        if kept is None:
            kept = self._new(grammar)
            self._keep(grammar, kept)
        copy: Matcher = kept.deep_copy()
        return copy

    def renewed(self, grammar: str) -> Matcher:
        """See Grammars.renewed."""
        with self._lock:
            if self._kept.pop(grammar, None) is not None:
                self._num_chars -= len(grammar)
        return self._new(grammar)

    def vocabulary(self) -> GrammarVocabulary:
        """See Grammars.vocabulary."""
        tokenizer = self._tokenizer
        return GrammarVocabulary(tokenizer.vocab_size, tuple(tokenizer.eos_tokens))

    @cached_property
    def _tokenizer(self) -> "LLTokenizer":
        return self._build_vocabulary()

    def _new(self, grammar: str) -> "LLMatcher":
        from llguidance import LLMatcher

        return LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._make_limits())

    def _try(self, grammar: str) -> str | None:
        """Compile and keep a grammar, if it can be followed from its beginning on; else says why not."""
        if grammar in self:
            return None
        try:
            matcher = self._new(grammar)
            compiled_s = time.thread_time()
            beginning = matcher.deep_copy()
            if not beginning.is_error():
                beginning.compute_ff_tokens()
                mask = np.empty(-(-self._tokenizer.vocab_size // 32), np.int32)
                beginning.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        except Exception as error:  # of the vocabulary, which is built here
            return broken(f"{type(error).__name__}: {error}")
        if beginning.is_error():
            return broken(beginning.get_error())
        if time.thread_time() - compiled_s > MAX_EXCESS_S:
            return TOO_SLOW
        self._keep(grammar, matcher)
        return None

    def _keep(self, grammar: str, matcher: "LLMatcher") -> None:
        if matcher.is_error() or len(grammar) > MAX_CHARS:
            return
        with self._lock:
            if grammar not in self._kept:
                self._num_chars += len(grammar)
            self._kept[grammar] = matcher
            while len(self._kept) > MAX_COUNT or self._num_chars > MAX_CHARS:
                forgotten, _ = self._kept.popitem(last=False)
                self._num_chars -= len(forgotten)
