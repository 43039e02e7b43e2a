"""Where templates run: they come from strangers' checkpoints, so they can neither reach anything nor run on forever.

On top of Jinja's immutable sandbox: a budget of thread time, spent by every loop pass, call and attribute, and a budget
of characters, spent by everything written; operations whose result can be far larger than their input are sized up
first; filters are an allow-list. Law: a render ends, or raises OverBudget, within about its budgets.
The dialect is the one Hugging Face renders chat templates with: trim_blocks, lstrip_blocks, break and continue,
``raise_exception``, ``strftime_now``, a ``tojson`` that escapes nothing, ``{% generation %}`` that only marks.
Imports jinja2 (60 ms), so import it only where a template is about to run.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_STEPS_BETWEEN_CHECKS = 128
_MAX_NUMBER_BITS = 4096
_MAX_INDENT = 64
_FILTERS = frozenset(
    (
        *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "groupby", "int"),
        *("items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "safe"),
        *("select", "selectattr", "sort", "string", "sum", "title", "trim", "truncate", "unique", "upper", "urlencode"),
        "wordcount",
    )
)
_UNSAFE_STR_METHODS = frozenset(("center", "expandtabs", "ljust", "rjust", "translate", "zfill"))
_LARGE_FORMAT = re.compile(r"\d{4}|\*|\{[^{}]*\{")
"""A field width of four digits, or one taken from an argument."""
# Names no template can write.
_METERED, _CONCAT = "metered loop", "concat"


class OverBudget(Exception):
    """The template ran too long or wrote too much."""


class Budget:
    """What one render may still use."""

    def __init__(self, max_chars: int, max_time_s: float) -> None:
        self.chars_left = self.max_chars = max_chars
        self._max_time_s = max_time_s
        self._deadline_s = time.thread_time() + max_time_s
        self._steps = 0

    def step(self) -> None:
        self._steps += 1
        if self._steps % _STEPS_BETWEEN_CHECKS == 0 and time.thread_time() > self._deadline_s:
            raise OverBudget(f"it took more than {self._max_time_s:g} s")

    def write(self, num_chars: int) -> None:
        """Account for text that is made; call before making it where it may be large."""
        self.chars_left -= num_chars
        if self.chars_left < 0:
            raise OverBudget(f"it wrote more than {self.max_chars} characters")


class _Current(threading.local):
    budget: Budget | None = None


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The one environment for every template. May be used by several threads; compile and render in ``budget``."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=self._finalize,
            extensions=[LoopControlExtension, _Generation],
        )
        self._current = _Current()
        known = self.filters
        self.filters = {
            **{name: known[name] for name in _FILTERS},
            "tojson": self._tojson,
            "join": self._join,
            "replace": self._replace,
            "format": self._format,
            "indent": self._limited(known["indent"], _MAX_INDENT),
            "round": self._limited(known["round"], _MAX_INDENT),
            _METERED: self._metered,
            _CONCAT: self._concat,
        }
        del self.globals["lipsum"]
        self.globals["dict"] = _new_dict
        self.globals["namespace"] = _Namespace
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)

    @contextmanager
    def budget(self, max_chars: int, max_time_s: float) -> Iterator[Budget]:
        """Budgets for what this thread does with the environment in the block."""
        assert self._current.budget is None, "budgets do not nest"
        self._current.budget = budget = Budget(max_chars, max_time_s)
        try:
            yield budget
        finally:
            self._current.budget = None

    @property
    def _budget(self) -> Budget:
        budget = self._current.budget
        assert budget is not None, "templates are compiled and rendered within a budget"
        return budget

    # --- what Jinja calls ------------------------------------------------------------------------------------------

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        for loop in template.find_all(nodes.For):
            written = sum(len(data.data) for part in loop.body for data in _all(part, nodes.TemplateData))
            loop.iter = _filter(loop.iter, _METERED, nodes.Const(written))
        for parent in list(_all(template, nodes.Node)):
            for field, child in list(parent.iter_fields()):
                if isinstance(child, list):
                    child[:] = [_bounded_concat(item) for item in child]
                elif isinstance(child, nodes.Concat):
                    setattr(parent, field, _bounded_concat(child))
        return template

    def _finalize(self, value: Any) -> str:
        text = value if isinstance(value, str) else str(value)
        self._budget.write(len(text))
        return text

    def getattr(self, obj: Any, attribute: str) -> Any:
        self._budget.step()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self._budget.step()
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _UNSAFE_STR_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        found = super().wrap_str_format(value)
        if found is not None:
            _check_format(value.__self__)
        return found

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self._budget.step()
        bound_to, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(__obj, LoopContext) and args:
            args = (__self._metered(args[0], 0), *args[1:])
        elif isinstance(bound_to, str) and name == "join" and len(args) == 1:
            return __self._join(args[0], bound_to)
        elif isinstance(bound_to, str) and name == "replace":
            return __self._replace(bound_to, *args)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self._budget.step()
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        elif operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
            self._fits(len(left) + len(right))
        elif operator == "*":
            self._check_product(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * max(right, 0))
        return super().call_binop(context, operator, left, right)

    # --- operations that are sized up first ------------------------------------------------------------------------

    def _fits(self, size: int) -> None:
        if size > self._budget.max_chars:
            raise OverBudget(f"it made a value of {size} characters or items, more than {self._budget.max_chars}")

    def _check_product(self, left: Any, right: Any) -> None:
        for many, times in ((left, right), (right, left)):
            if isinstance(many, (str, list, tuple)) and isinstance(times, int):
                self._fits(len(many) * times)
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() + right.bit_length())

    def _metered(self, items: Iterable[Any], chars_each: int) -> Iterator[Any]:
        budget = self._budget
        for item in items:
            budget.step()
            budget.write(chars_each)
            yield item

    def _concat(self, parts: list[Any]) -> str:
        texts = [str(part) for part in parts]
        self._fits(sum(map(len, texts)))
        return "".join(texts)

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        if attribute is not None:
            value = map(make_attrgetter(self, attribute), value)
        texts: list[str] = []
        size = 0
        for item in value:
            texts.append(str(item))
            size += len(texts[-1]) + len(d)
            self._fits(size)
        return str(d).join(texts)

    def _replace(self, s: Any, old: Any, new: Any, count: int | None = None) -> str:
        text, old, new = str(s), str(old), str(new)
        times = text.count(old) if count is None or count < 0 else min(count, text.count(old))
        self._fits(len(text) + times * (len(new) - len(old)))
        return text.replace(old, new, -1 if count is None else count)

    def _format(self, value: Any, *args: Any, **kwargs: Any) -> str:
        _check_format(str(value))
        return str(value) % (kwargs or args)

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        _check_small(indent, _MAX_INDENT)
        # Hugging Face's: nothing is escaped for HTML, and no character becomes \\u
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def _limited(self, apply: Callable[..., Any], most: int) -> Callable[..., Any]:
        """The filter, if its numbers are small and its result fits."""

        def limited(value: Any, *args: Any, **kwargs: Any) -> Any:
            for argument in (*args, *kwargs.values()):
                _check_small(argument, most)
            if isinstance(value, str):
                self._fits(len(value) + most * value.count("\n"))
            return apply(value, *args, **kwargs)

        return limited


class _Generation(Extension):
    """``{% generation %}`` marks what a model wrote, for training. Here it is only a scope."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Namespace(Namespace):
    """Holds no names that mean something to Python."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a namespace cannot hold {name!r}")
        super().__setitem__(name, value)


def _new_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """A new dict; the type itself would bring methods that change the dicts passed to them."""
    return dict(*args, **kwargs)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _all(node: nodes.Node, kind: type[Any]) -> Iterator[Any]:
    if isinstance(node, kind):
        yield node
    yield from node.find_all(kind)


def _bounded_concat(node: Any) -> Any:
    return _filter(nodes.List(node.nodes), _CONCAT) if isinstance(node, nodes.Concat) else node


def _filter(node: Any, name: str, *args: nodes.Expr) -> nodes.Filter:
    made = nodes.Filter(node, name, list(args), [], None, None)
    made.set_lineno(node.lineno or 1)
    return made


def _check_format(pattern: str) -> None:
    if _LARGE_FORMAT.search(pattern):
        raise SecurityError(f"the format {pattern[:40]!r} has a field width that is too large or not written out")


def _check_bits(num_bits: int) -> None:
    if num_bits > _MAX_NUMBER_BITS:
        raise OverBudget(f"it computed a number of more than {_MAX_NUMBER_BITS} bits")


def _check_small(argument: Any, most: int) -> None:
    if (isinstance(argument, int) and abs(argument) > most) or (isinstance(argument, str) and len(argument) > most):
        raise OverBudget(f"it gave {str(argument)[:40]!r} to a filter where at most {most} is sensible")
