"""``best_of``: of all continuations, those that are likeliest for their length."""

import msgspec

from quire.core.outputs import CompletionOutput, RequestOutput


def best(output: RequestOutput, n: int) -> RequestOutput:
    """The same with the ``n`` continuations of highest mean log probability a token, best first, numbered anew.

    All must have their ``cumulative_logprob``, unless there are no more than ``n``: then they stay as they are.
    """
    if len(output.outputs) <= n:
        return output
    chosen = sorted(output.outputs, key=_mean_logprob, reverse=True)[:n]
    numbered = [msgspec.structs.replace(choice, index=i) for i, choice in enumerate(chosen)]
    return msgspec.structs.replace(output, outputs=numbered)


def _mean_logprob(choice: CompletionOutput) -> float:
    assert choice.cumulative_logprob is not None
    return choice.cumulative_logprob / max(1, len(choice.token_ids))
