"""``/invocations``: a body of any of the APIs that generate."""

from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from quire.server.schema.common import RequestModel
from quire.server.schema.refused import Refusals


class Invocation(RequestModel):
    """What is given decides whose request it is; then all fields of that are taken."""

    model_config = ConfigDict(strict=True, extra="allow")
    refused: ClassVar[Refusals] = {}

    messages: Any = Field(default=None, description="as for /v1/chat/completions")
    prompt: Any = Field(default=None, description="as for /v1/completions")
    text: Any = Field(default=None, description="as for /generate")
    input_ids: Any = Field(default=None, description="as for /generate")
