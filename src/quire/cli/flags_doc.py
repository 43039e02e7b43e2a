"""Writes docs/flags.md, the page of all settings, from the config structs and the aliases.

python -m quire.cli.flags_doc docs/flags.md
"""

import sys
from pathlib import Path

from quire.cli.fields import SECTIONS, Setting, settings
from quire.core import aliases

_HEAD = """# Flags and settings

This page is made from the code by `make docs`.

Every setting is a flag of `quire serve`, a key of a `--config` YAML file (with `-` or `_`), and, unless it is the
server's, a keyword of `LLM(...)`. The command line wins over the file, the file over the environment. Whole numbers
may end in `k`, `m`, `g` (thousands) or `K`, `M`, `G` (1024s); a switch that is on is turned off with `--no-`; lists
take several words, or a JSON list. `auto` lets Quire decide, and the log says what it decided.
"""


def page() -> str:
    """The whole page as Markdown."""
    parts = [_HEAD]
    known = settings(SECTIONS)
    for section, struct in SECTIONS.items():
        rows = [_row(setting) for setting in known.values() if setting.section == section]
        about = (struct.__doc__ or "").splitlines()[0]
        parts.append(f"## {section.capitalize()}\n\n{about}\n\n" + _table("flag | default | meaning | also", rows))
    parts.append(_elsewhere())
    return "\n".join(parts)


def _row(setting: Setting) -> str:
    meaning = setting.description + (f": {', '.join(f'`{c}`' for c in setting.choices)}" if setting.choices else "")
    same = aliases.SAME.get(setting.name, "").split()
    same += [flag for flag, convert in aliases.CONVERTED.items() if setting.name in convert("7")]
    others = [f"`{flag}`" for flag in same]
    others += [f"`{flag}` (off)" for flag in aliases.INVERTED.get(setting.name, "").split()]
    also = ", ".join(others)
    return f"`{setting.flag}` | {setting.default_text} | {meaning} | {also}"


def _elsewhere() -> str:
    """What is known of other programs' flags and is not ours."""
    accepted = [f"{why} | {_names(flags)}" for why, flags in aliases.NO_EFFECT.items()]
    only = [f"`{flag}` | {', '.join(f'`{v}`' for v in values.split())}" for flag, values in aliases.ONLY.items()]
    missing = [f"{what} | {_names(flags)}" for what, flags in aliases.NOT_YET.items()]
    return "\n".join(
        [
            "## Flags of other programs\n\nAccepted, with a line in the log that says why nothing changes:\n",
            _table("why | flags", accepted),
            "Accepted with these values, refused with others:\n",
            _table("flag | values", only),
            "Refused by name, since this version does not have it:\n",
            _table("what | flags", missing),
        ]
    )


def _names(flags: str) -> str:
    return ", ".join(f"`{flag.partition('=')[0]}`" for flag in flags.split())


def _table(head: str, rows: list[str]) -> str:
    rule = " | ".join("---" for _ in head.split(" | "))
    return "\n".join(f"| {row} |" for row in [head, rule, *rows]) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
