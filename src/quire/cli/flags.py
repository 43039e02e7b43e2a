"""The command line of every command that starts an engine, generated from the config structs.

A value comes from, first wins: the command line, the ``--config`` file, the environment, the field's default.
"""

import argparse
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from quire.cli.config_file import read_config_file
from quire.cli.fields import ENGINE_SECTIONS, SECTIONS
from quire.cli.parser import AddOptions, FlagParser, FlagValues
from quire.core import log
from quire.core.config import EngineConfig, ServeConfig
from quire.core.errors import ConfigError


class Reading(msgspec.Struct, frozen=True):
    """What a command line said."""

    settings: dict[str, Any]
    """Settings that were given, by name, checked."""
    options: argparse.Namespace
    """The command's own options."""
    notes: list[str]
    """One line for each flag that has no effect here."""

    def start_logging(self, level: str) -> None:
        """Log from this level up, the notes first."""
        log.configure(level)
        for note in self.notes:
            logging.getLogger("quire").warning("%s", note)

    def engine_config(self) -> EngineConfig:
        """The engine's part, defaults filled in."""
        return EngineConfig(**{name: self._section(name) for name in ENGINE_SECTIONS})

    def serve_config(self) -> ServeConfig:
        """All of it, defaults filled in."""
        return ServeConfig(engine=self.engine_config(), server=self._section("server"))

    def _section(self, section: str) -> Any:
        struct = SECTIONS[section]
        return struct(**{name: self.settings[name] for name in struct.__struct_fields__ if name in self.settings})


def parse(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> ServeConfig:
    """The configuration that ``quire serve`` with these arguments has; raises ConfigError."""
    return read("quire serve", "", argv, environ=environ).serve_config()


def read(
    prog: str,
    about: str,
    argv: Sequence[str],
    *,
    environ: Mapping[str, str] = os.environ,
    sections: dict[str, type[msgspec.Struct]] = SECTIONS,
    add_options: AddOptions | None = None,
) -> Reading:
    """Read a command's arguments, its config file and the environment.

    Raises ConfigError; ``--help`` prints and raises SystemExit.
    """
    parser = FlagParser(prog, about, sections, add_options)
    command_line = parser.read(argv)
    from_file = FlagValues()
    path = getattr(command_line.options, "config", None)
    if path is not None:
        try:
            from_file = parser.read(read_config_file(path, parser.kinds))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error.message}") from None
        if hasattr(from_file.options, "config"):
            raise ConfigError(f"{path}: config: a file cannot name another one.")
    _take_model(command_line)
    given = parser.from_environment(environ) | from_file.settings | command_line.settings
    notes = dict.fromkeys(from_file.notes + command_line.notes)
    options = argparse.Namespace(**vars(from_file.options) | vars(command_line.options))
    return Reading(given, options, list(notes))


def _take_model(values: FlagValues) -> None:
    """The one word that belongs to no flag is the model."""
    if not values.positionals:
        return
    model, *more = values.positionals
    if more:
        raise ConfigError(f"unexpected argument {more[0]!r}: {model!r} is already the model.")
    other = values.settings.setdefault("model", model)
    other = getattr(values.options, "model", other)  # an option of the command's own
    if other != model:
        raise ConfigError(f"two models are given: {model!r} and --model {other}.")
