"""Reads words into settings: ours, other programs' spellings of them, and a command's own options.

argparse does the splitting into flags and values, and the help; every flag's meaning is an action below. A flag is one
of: our setting, another name of it, a switch that turns it off, a flag whose value a function translates, one with few
accepted values, one without effect, one that is refused.
"""

import argparse
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import msgspec

from quire.cli.fields import Setting, settings
from quire.core import aliases
from quire.core.errors import ConfigError

_ENVIRONMENT = {"log_level": ("QUIRE_LOG_LEVEL", "VLLM_LOGGING_LEVEL")}
"""Setting -> variables that give it, first wins. (Keys and tokens are read where they are used.)"""

AddOptions = Callable[[argparse.ArgumentParser], None]


class FlagValues:
    """What one source (command line or file) gave."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.notes: list[str] = []
        self.positionals: list[str] = []
        self.options = argparse.Namespace()


class FlagParser(argparse.ArgumentParser):
    """Knows every flag: our settings, other programs' spellings, a command's own options.

    ``kinds`` says of every flag whether it is a switch or takes values, for the reader of config files.
    """

    def __init__(
        self,
        prog: str,
        about: str,
        sections: dict[str, type[msgspec.Struct]],
        add_options: AddOptions | None,
    ) -> None:
        super().__init__(
            prog=prog,
            usage=f"{prog} [MODEL] [--flag value ...]",
            description=about,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=_Help,
        )
        self.kinds: dict[str, str] = {}
        self._settings = settings(sections)
        self._values = FlagValues()
        self.add_argument("--config", metavar="FILE", help="YAML file of flags, without the dashes")
        if add_options is not None:
            add_options(self)
        for section, struct in sections.items():
            group = self.add_argument_group(section, description=(struct.__doc__ or "").splitlines()[0])
            for setting in self._settings.values():
                if setting.section == section:
                    self._add_setting(setting, group)
        self._add_aliases()

    def read(self, argv: Iterable[str]) -> FlagValues:
        """Parse words; what is neither a flag nor a flag's value goes to ``positionals``."""
        self._values = values = FlagValues()
        values.options, rest = self.parse_known_args([plain for word in argv for plain in _plain(word)])
        for word in rest:
            if word.startswith("-") and word != "-":
                raise ConfigError(f"unknown flag {word.partition('=')[0]}{self._nearest(word)}")
            values.positionals.append(word)
        return values

    def from_environment(self, environ: Mapping[str, str]) -> dict[str, Any]:
        """Settings that environment variables give."""
        given = {}
        for name, variables in _ENVIRONMENT.items():
            found = [variable for variable in variables if environ.get(variable)]
            if found and name in self._settings:
                given[name] = self._value(self._settings[name], found[0], [environ[found[0]]])
        return given

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument "))

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        return []  # argparse would take -d for a -dp if there is no other; here a flag is written out

    def put(self, name: str, option: str, words: list[str]) -> None:
        """A setting was given; lists given in several pieces add up."""
        setting = self._settings[name]
        value = self._value(setting, option, words)
        if setting.is_list:
            value = self._values.settings.get(name, []) + value
        self._values.settings[name] = value

    def put_bool(self, name: str, value: bool) -> None:
        """A switch was given."""
        self._values.settings[name] = value

    def note(self, option: str, why: str) -> None:
        """A flag was given that has no effect."""
        self._values.notes.append(f"{option} has no effect: {why}.")

    def _value(self, setting: Setting, option: str, words: list[str]) -> Any:
        other_words = aliases.VALUES.get(setting.name, {})
        try:
            if setting.is_list:
                return setting.check([item for word in words for item in _items(word)])
            (word,) = words
            return setting.check(setting.parse(other_words.get(word.lower(), word)))
        except ValueError as error:
            if instead := aliases.INSTEAD.get(setting.name, {}).get(words[0].lower()):
                raise ConfigError(f"{option} {words[0]}: {instead}.") from None
            if setting.choices:
                raise ConfigError(f"{option} {words[0]}: must be one of {', '.join(setting.choices)}.") from None
            kind = {int: "a whole number", float: "a number"}.get(setting.base)
            why = str(error)[:1].lower() + str(error)[1:] if str(error).startswith("Expected") else f"expected {kind}"
            raise ConfigError(f"{option} {' '.join(words)}: {why}.") from None

    def _nearest(self, word: str) -> str:
        known = [flag for flag in self._option_string_actions if self.kinds.get(flag) != "refused"]
        near = difflib.get_close_matches(word.partition("=")[0], known, n=1)
        return f"; did you mean {near[0]}?" if near else f"; {self.prog} --help lists all."

    def _add_setting(self, setting: Setting, group: argparse._ArgumentGroup) -> None:
        text = setting.help_text.replace("%", "%%")
        if setting.base is bool:
            names = [setting.flag, "--no-" + setting.flag[2:]]
            self._register(group, names, "switch", _Switch, setting.name, help=text)
        else:
            placeholder = {int: "N", float: "X", dict: "JSON"}.get(setting.base, "TEXT")
            metavar = "{" + ",".join(setting.choices) + "}" if setting.choices else placeholder
            self._register(group, [setting.flag], _arity(setting), _Set, setting.name, metavar=metavar, help=text)

    def _add_aliases(self) -> None:
        for name, flags in aliases.SAME.items():
            if name in self._settings:
                setting = self._settings[name]
                is_switch = setting.base is bool
                for flag in flags.split():
                    names = [flag, "--no-" + flag[2:]] if is_switch else [flag]
                    kind = "switch" if is_switch else _arity(setting)
                    self._register(self, names, kind, _Switch if is_switch else _Set, name)
        for name, flags in aliases.INVERTED.items():
            if name in self._settings:
                for flag in flags.split():
                    self._register(self, [flag, "--no-" + flag[2:]], "switch", _InvertedSwitch, name)
        for flag, convert in aliases.CONVERTED.items():
            if convert("7").keys() <= self._settings.keys():
                self._register(self, [flag], "one", _Convert, convert)
        for flag, accepted in aliases.ONLY.items():
            self._register(self, [flag], "one", _Only, accepted.split())
        for action, table in ((_Ignore, aliases.NO_EFFECT), (_Refuse, aliases.NOT_YET)):
            for why, flags in table.items():
                for marked in flags.split():
                    flag, takes, several = marked.partition("=")
                    kind = "switch" if not takes else "many" if several else "one"
                    names = [flag, "--no-" + flag[2:]] if kind == "switch" and not flag.startswith("--no-") else [flag]
                    self._register(self, names, kind, action, why)

    def _register(
        self,
        group: Any,
        names: list[str],
        kind: str,
        action: type[argparse.Action],
        subject: Any,
        **looks: Any,
    ) -> None:
        """Add a flag, unless a command's own option or a setting already has the name."""
        names = [name for name in names if name not in self._option_string_actions]
        if names:
            nargs = {"switch": 0, "one": 1, "many": "+"}[kind]
            looks.setdefault("help", argparse.SUPPRESS)
            group.add_argument(*names, action=action, nargs=nargs, dest=names[0], const=subject, **looks)
            self.kinds |= dict.fromkeys(names, "refused" if action is _Refuse else kind)


class _FlagAction(argparse.Action):
    """What a flag does when met; ``const`` is what it is about."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        assert option_string is not None
        self.met(parser, option_string, values)

    def met(self, parser: FlagParser, option: str, words: list[str]) -> None:
        raise NotImplementedError


class _Set(_FlagAction):
    """Our setting takes these words."""

    def met(self, parser: FlagParser, option: str, words: list[str]) -> None:
        parser.put(self.const, option, words)


class _Switch(_FlagAction):
    """Our setting is on, or off with ``--no-``."""

    def met(self, parser: FlagParser, option: str, words: list[str]) -> None:
        parser.put_bool(self.const, not option.startswith("--no-"))


class _InvertedSwitch(_FlagAction):
    """Our setting is off, or on with ``--no-``."""

    def met(self, parser: FlagParser, option: str, words: list[str]) -> None:
        parser.put_bool(self.const, option.startswith("--no-"))


class _Convert(_FlagAction):
    """A function turns the word into our settings."""

    def met(self, parser: FlagParser, option: str, words: list[str]) -> None:
        for name, value in self.const(words[0]).items():
            if isinstance(value, bool):
                parser.put_bool(name, value)
            else:
                parser.put(name, option, [value])


class _Only(_FlagAction):
    """Accepted if it asks for what happens here anyway."""

    def met(self, parser: FlagParser, option: str, words: list[str]) -> None:
        if words[0] not in self.const:
            raise ConfigError(
                f"{option} {words[0]}: this version of Quire does not have that; it only knows "
                f"{option} {' or '.join(self.const)}."
            )


class _Ignore(_FlagAction):
    """Accepted; the reader is told why nothing changes."""

    def met(self, parser: FlagParser, option: str, words: list[str]) -> None:
        parser.note(option, self.const)


class _Refuse(_FlagAction):
    """Refused by name, unless it says no to what does not exist."""

    def met(self, parser: FlagParser, option: str, words: list[str]) -> None:
        if not option.startswith("--no-"):
            raise ConfigError(f"{option}: this version of Quire does not have {self.const}.")


class _Help(argparse.HelpFormatter):
    """Wider than the default, and one flag a line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=120)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if action.nargs == "+":
            return f"{action.option_strings[0]} {action.metavar} ..."
        if action.nargs == 1:
            return f"{action.option_strings[0]} {action.metavar}"
        return super()._format_action_invocation(action)


def _arity(setting: Setting) -> str:
    return "many" if setting.is_list else "one"


def _items(word: str) -> list[Any]:
    """A word of a list, or a whole list in JSON."""
    if not word.startswith("["):
        return [word]
    try:
        return msgspec.json.decode(word, type=list[Any])
    except msgspec.DecodeError:
        raise ValueError("Expected a JSON list, or words") from None


def _plain(word: str) -> list[str]:
    """``--max_model_len=4k`` as ``--max-model-len=4k``, and ``-O3`` as ``-O 3``."""
    if word.startswith("--"):
        flag, equals, value = word.partition("=")
        return [flag.replace("_", "-") + equals + value]
    if re.fullmatch(r"-[A-Za-z]\d+", word):
        return [word[:2], word[2:]]
    return [word]
