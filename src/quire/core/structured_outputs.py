"""What shape a request's answer must have. Exactly one of the shapes is given.

The names are vLLM's. Only the shape's own form is checked here; whether a schema, a regex or a grammar can be honoured
is known when it is compiled (``text.grammar``), at the door and with bounds on its time and memory.
"""

from collections.abc import Mapping
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
        for name, (kinds, wanted) in _FORMS.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kinds):
                raise InvalidRequest(
                    f"structured_outputs.{name} is {value!r:.80}: it must be {wanted}.",
                    param=f"$.structured_outputs.{name}",
                )
        if self.choice is not None:
            msgspec.structs.force_setattr(self, "choice", tuple(self.choice))
        given = self._given()
        if len(given) != 1:
            said = " and ".join(given) if given else "nothing"
            raise InvalidRequest(
                f"structured_outputs holds {said}: give exactly one of {', '.join(SHAPES)}.",
                param="$.structured_outputs",
            )

    @property
    def shape(self) -> str:
        """The name of the one that is given."""
        return self._given()[0]

    def _given(self) -> list[str]:
        # False asks for no object, but is a schema, though one that nothing matches.
        values = {name: getattr(self, name) for name in SHAPES}
        return [name for name, value in values.items() if value is not None and (value is not False or name == "json")]


_FORMS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "json": ((dict, bool, str), "a JSON schema: an object, true, false, or one of these as text"),
    "regex": ((str,), "a string"),
    "choice": ((list, tuple), "a list of strings"),
    "grammar": ((str,), "a string"),
    "json_object": ((bool,), "true or false"),
    "structural_tag": ((dict, str), "an object, or one as text"),
    "whitespace_pattern": ((str,), "a string"),
}

StructuredOutputsParams = StructuredOutputs
"""What vLLM calls it."""
