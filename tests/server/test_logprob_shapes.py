"""Which of the log probabilities that the engine tells are shown."""

from quire.core.outputs import Logprob
from quire.server.answers.logprobs import likeliest


def test_no_more_than_were_asked_for_where_tokens_share_a_rank():
    """The engine lists equals by their ids; one that was chosen or named has the best rank of its equals."""
    found = {9: Logprob(-1.0, 1), 7: Logprob(-3.0, 40), 2: Logprob(-1.0, 1), 5: Logprob(-1.0, 2)}
    assert [token for token, _ in likeliest(found, 1)] == [2]
    assert [token for token, _ in likeliest(found, 2)] == [2, 9]
    assert [token for token, _ in likeliest(found, 3)] == [2, 9, 5]
    assert likeliest(found, 0) == []
