"""``truncation: auto``: the oldest turns of a conversation that is too long are left out.

Law: what leads the conversation (instructions) and its last turn stay, and it is cut only where a user begins to speak,
so that no result loses its call.
"""

import msgspec

from quire.core.errors import PromptTooLong
from quire.server.rendering import render
from quire.server.service import Service
from quire.server.turn import Turn


async def shortened(service: Service, turn: Turn, refusal: PromptTooLong) -> Turn:
    """The turn without as few of its oldest messages as make room; raises the refusal where none can go."""
    messages = turn.conversation.messages
    lead = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    cuts = [i for i in range(lead + 1, len(messages)) if messages[i]["role"] == "user"]
    room = _room(turn.params.max_tokens, service.llm.info.max_model_len)
    low, high = 0, len(cuts)
    while low < high:
        middle = (low + high) // 2
        if await _num_tokens(service, _cut(turn, lead, cuts[middle])) <= room:
            high = middle
        else:
            low = middle + 1
    if low == len(cuts):
        raise refusal
    return _cut(turn, lead, cuts[low])


def _room(max_tokens: int | None, max_model_len: int) -> int:
    """For the prompt: what is left by the answer, which takes a quarter of the context where nothing is said of it."""
    return max_model_len - min(max_tokens or max_model_len // 4, max_model_len // 2)


def _cut(turn: Turn, lead: int, begin: int) -> Turn:
    messages = turn.conversation.messages
    kept = [*messages[:lead], *messages[begin:]]
    conversation = msgspec.structs.replace(turn.conversation, messages=kept)
    return msgspec.structs.replace(turn, conversation=conversation)


async def _num_tokens(service: Service, turn: Turn) -> int:
    prompt = await render(service, turn.conversation)
    encode = service.llm.tokenizer.encode
    return len(await service.llm.run_blocking(encode, prompt, turn.add_special_tokens))
