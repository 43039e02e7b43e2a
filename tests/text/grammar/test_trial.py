"""The process that tries grammars: it survives what it tries, is started anew when it is gone, ends with its owner."""

import os
import signal

import pytest

from quire.core.errors import GenerationFailed
from quire.text.grammar import trial
from quire.text.grammar.cache import GrammarCache
from quire.text.grammar.lark import regex_piece, text_piece
from quire.text.grammar.trial import Trial
from quire.text.grammar.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    return Vocabulary([bytes([code]) for code in range(256)] + [b"<end>", b"ab"], [256], [256])


@pytest.fixture
def tried(words):
    tried = Trial(lambda: words)
    yield tried
    tried.close()


def test_good_and_bad(tried):
    assert tried.verdict(text_piece("ab").text()).error == ""
    assert "unclosed" in tried.verdict(regex_piece("(a").text()).error
    assert tried.verdict("no grammar at all").error
    assert tried.verdict('{"grammars": []}').error
    assert tried.verdict(text_piece("ab").text()).error == ""


def test_time_is_limited(tried):
    endless = regex_piece("a?" * 20_000 + "a" * 20_000).text()
    assert tried.verdict(endless).error in (trial.TOO_LONG, trial.TOO_MUCH_MEMORY)
    assert tried.verdict(text_piece("a").text()).error == ""


def test_what_is_wrong_beyond_the_first_token_is_found(tried):
    schema = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(600)}}
    from quire.text.grammar.lark import json_piece, sequence

    assert "items" in tried.verdict(sequence([text_piece("x"), json_piece(schema)]).text()).error


def test_a_process_that_is_gone_is_started_again(tried):
    tried.verdict(text_piece("a").text())
    os.kill(tried._process.pid, signal.SIGKILL)
    tried._process.wait()
    with pytest.raises(GenerationFailed, match="could not be checked"):
        tried.verdict(text_piece("b").text())
    assert tried.verdict(text_piece("b").text()).error == ""


def test_it_ends_with_its_owner(tried):
    tried.verdict(text_piece("a").text())
    process = tried._process
    tried.close()
    assert process.poll() is not None


def test_how_a_trial_ended_is_told():
    assert trial._post_mortem(signal.SIGPROF) == trial.TOO_LONG
    assert trial._post_mortem(signal.SIGABRT) == trial.TOO_MUCH_MEMORY
    assert trial._post_mortem(1 << 8) == "it cannot be compiled"


def test_the_cache_holds_so_many_bytes_and_forgets_the_oldest():
    cache: GrammarCache[int] = GrammarCache(20_000)
    for i in range(1000):
        cache.put(b"%d" % i, i, 100)
        assert cache.get(b"0") == 0  # asked for, and so never the oldest
        assert cache.num_bytes <= 20_000
    assert cache.get(b"1") is None and cache.get(b"999") == 999
    cache.put(b"999", 5, 200)
    assert cache.get(b"999") == 5
    cache.put(b"large", 1, 30_000)
    assert len(cache) == 0 and cache.num_bytes == 0
