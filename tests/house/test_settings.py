"""Every setting is described, and the page about flags is what the code says."""

from pathlib import Path

from quire.cli.fields import SECTIONS, settings
from quire.cli.flags_doc import page
from quire.core import aliases


def test_every_setting_is_described() -> None:
    for setting in settings(SECTIONS).values():
        assert len(setting.description) > 10, setting.name
        assert not setting.description.endswith("."), setting.name


def test_the_page_of_flags_is_up_to_date(root: Path) -> None:
    written = (root / "docs" / "flags.md").read_text()
    assert written == page(), "run make docs"
    for setting in settings(SECTIONS).values():
        assert f"`{setting.flag}`" in written


def test_aliases_name_settings_that_exist() -> None:
    known = settings(SECTIONS)
    for table in (aliases.SAME, aliases.INVERTED, aliases.VALUES, aliases.INSTEAD):
        assert set(table) <= set(known)
    for convert in aliases.CONVERTED.values():
        for text in ("-1", "0", "7"):
            assert set(convert(text)) <= set(known)


def test_no_flag_has_two_meanings() -> None:
    spelled: list[str] = []
    for setting in settings(SECTIONS).values():
        spelled.append(setting.flag)
    for flags in [*aliases.SAME.values(), *aliases.INVERTED.values()]:
        spelled += flags.split()
    for table in (aliases.NO_EFFECT, aliases.NOT_YET):
        for flags in table.values():
            spelled += [flag.partition("=")[0] for flag in flags.split()]
    spelled += [*aliases.CONVERTED, *aliases.ONLY]
    twice = {flag for flag in spelled if spelled.count(flag) > 1}
    assert not twice
