"""What shape a request's answer must have. Exactly one of the shapes is given.

The names are vLLM's. Only the shape's own form is checked here; whether a schema, a regex or a grammar can be honoured
is known when it is compiled (``text.grammar``), at the door and with bounds on its time and memory.
"""

from typing import Any

import msgspec

from quire.core.errors import InvalidRequest

MAX_GRAMMAR_CHARS = 256 * 1024
"""Of a schema as JSON, a regex, a grammar, all choices together."""
MAX_CHOICES = 1024

SHAPES = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


class StructuredOutputs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One shape. ``json`` is a JSON schema (as an object or text), ``grammar`` EBNF: GBNF or Lark.

    ``is_lenient``: ignore what of a schema cannot be enforced, rather than refuse it.
    """

    json: dict[str, Any] | bool | str | None = None
    regex: str | None = None
    choice: tuple[str, ...] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: dict[str, Any] | str | None = None
    disable_any_whitespace: bool = False
    whitespace_pattern: str | None = None
    disable_additional_properties: bool = False
    is_lenient: bool = False

    def __post_init__(self) -> None:
        given = [name for name in SHAPES if getattr(self, name) not in (None, False)]
        if self.json is False:
            given.append("json")
        if len(given) != 1:
            said = " and ".join(given) if given else "nothing"
            raise InvalidRequest(
                f"structured_outputs holds {said}: give exactly one of {', '.join(SHAPES)}.",
                param="$.structured_outputs",
            )

    @property
    def shape(self) -> str:
        """The name of the one that is given."""
        return next(name for name in SHAPES if getattr(self, name) is not None)
