"""What ended a continuation, as SGLang's clients read it: OpenAI's finish reason does not tell, and vLLM's stop reason
tells nothing of the model's own end.
"""

from quire.core.outputs import CompletionOutput
from quire.core.step import FinishReason


def matched_stop(choice: CompletionOutput) -> int | str | None:
    """The stop string or id, or the id that ends a sequence; None where none of them ended it."""
    if choice.finish_reason != FinishReason.STOP:
        return None
    last = choice.token_ids[-1] if choice.token_ids else None
    return choice.stop_reason if choice.stop_reason is not None else last
