"""Responses kept for later: to be read again, listed, continued; and those still being made in the background.

In memory, in this process, and bounded in number and bytes; what has not been used for longest goes first. A response
is kept encoded, as it is answered. Law: ``num_bytes`` is the sum over what is kept, and within the limits whenever a
method returns. What is being made is in nobody's way: its number is bounded by the engine's queue.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from quire.core.errors import InvalidRequest, NotFound
from quire.server.schema.responses import ResponseObject

NamedItem = tuple[str, bytes]
"""An item's id, and the item as JSON."""


class ResponseNotFound(NotFound):
    code = "response_not_found"


class PreviousResponseNotFound(InvalidRequest):
    code = "previous_response_not_found"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A response that is over. ``answer`` is the object as JSON; ``events`` the whole stream, of a background one."""

    answer: bytes
    input: tuple[NamedItem, ...]
    output: tuple[NamedItem, ...]
    previous_id: str | None
    is_background: bool = False
    events: tuple[bytes, ...] | None = None

    @property
    def items(self) -> tuple[NamedItem, ...]:
        """What it adds to a conversation."""
        return self.input + self.output

    @property
    def num_bytes(self) -> int:
        parts = (self.answer, *(item for _, item in self.items), *(self.events or ()))
        return sum(map(len, parts)) + _OVERHEAD_BYTES * len(parts)


_OVERHEAD_BYTES = 64
"""Of one object in memory, about."""


class Running(Protocol):
    """A response that is still being made, with nobody waiting for it."""

    @property
    def response(self) -> ResponseObject:
        """As far as it has come."""
        ...

    @property
    def input(self) -> tuple[NamedItem, ...]: ...

    @property
    def has_events(self) -> bool:
        """Whether its stream may be followed."""
        ...

    def follow(self, after: int = -1) -> AsyncIterator[bytes]:
        """The events behind that number, then those that come."""
        ...

    async def cancel(self) -> ResponseObject:
        """End it with what there is; returns the response at its end."""
        ...


class ResponseStore:
    """One for each application; lives in its Service."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self.running: dict[str, Running] = {}
        self.num_bytes = 0
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._homes: dict[str, tuple[str, bytes]] = {}  # of items made here: by id, whose they are, and themselves

    @property
    def is_on(self) -> bool:
        return self._max_count > 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, id: str, kept: Kept) -> None:
        """Keep one that is over; it counts as just used. One that is larger than all room is not kept."""
        self._kept[id] = kept
        self._sizes[id] = kept.num_bytes
        self.num_bytes += self._sizes[id]
        for item_id, item in kept.items:
            self._homes.setdefault(item_id, (id, item))
        while self._kept and (len(self._kept) > self._max_count or self.num_bytes > self._max_bytes):
            self._drop(next(iter(self._kept)))

    def get(self, id: str) -> Kept:
        """Raises ResponseNotFound."""
        if id not in self._kept:
            raise ResponseNotFound(f"Response with id {id!r:.80} not found: {self._why_gone}", param="$.response_id")
        self._kept.move_to_end(id)
        return self._kept[id]

    def history(self, id: str) -> list[Kept]:
        """The response and those that it continues, oldest first. Raises InvalidRequest if one of them is not there."""
        if id in self.running:
            raise InvalidRequest(
                f"previous_response_id is {id!r:.80}, which is still being made: wait until it is completed.",
                param="$.previous_response_id",
            )
        chain: list[Kept] = []
        wanted: str | None = id
        while wanted is not None:
            if wanted not in self._kept:
                continued = "" if wanted == id else f", which {id!r:.80} continues"
                raise PreviousResponseNotFound(
                    f"Previous response with id {wanted!r:.80}{continued} not found: {self._why_gone} Send its items "
                    "as input instead.",
                    param="$.previous_response_id",
                )
            chain.append(self._kept[wanted])
            # The oldest is touched last of all: a conversation does not lose its beginning before its end.
            self._kept.move_to_end(wanted)
            wanted = chain[-1].previous_id
        return chain[::-1]

    def item(self, item_id: str) -> bytes | None:
        """A stored item as JSON, if it is there."""
        home = self._homes.get(item_id)
        if home is None:
            return None
        self._kept.move_to_end(home[0])
        return home[1]

    def delete(self, id: str) -> None:
        """Raises ResponseNotFound."""
        self.get(id)
        self._drop(id)

    def _drop(self, id: str) -> None:
        kept = self._kept.pop(id)
        self.num_bytes -= self._sizes.pop(id)
        for item_id, _ in kept.items:
            if self._homes.get(item_id, ("", b""))[0] == id:
                del self._homes[item_id]

    @property
    def _why_gone(self) -> str:
        if not self.is_on:
            return "this server keeps none (--max-stored-responses 0)."
        return (
            f"it was never made, not stored, deleted, or dropped: the last {self._max_count} are kept, in memory "
            "(--max-stored-responses, --max-stored-response-bytes)."
        )
