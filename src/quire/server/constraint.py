"""The shape that a turn's reply must have: of an answer, of calls, and where reasoning comes before them."""

from typing import TYPE_CHECKING

from quire.core.errors import Unsupported
from quire.core.sampling_params import SamplingParams

if TYPE_CHECKING:
    from quire.server.turn import Turn
    from quire.text.dialects.registry import Dialects


def constrained(turn: "Turn", dialects: "Dialects", is_reasoning_open: bool) -> SamplingParams:
    """The turn's settings with its shape in ``structured_outputs``. Raises InvalidRequest or Unsupported."""
    raise Unsupported("tool_choice cannot be required yet: leave it auto.", param="$.tool_choice")
