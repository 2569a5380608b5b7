"""docs/timeouts-and-limits.md has every timeout and limit of `nograd serve`, with its default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nograd.server.settings.definition import Setting, settings_by_name

PAGE = (Path(__file__).parent.parent / "docs" / "timeouts-and-limits.md").read_text("utf-8")
ROWS = dict(re.findall(r"^\| `--([a-z-]+)` \| ([^|]+) \|", PAGE, re.MULTILINE))

LIMITS = [each for each in settings_by_name().values() if each.name.startswith("max_") or each.name.endswith("_s")]
UNITS = {" s": 1, " MiB": 2**20, " KiB": 2**10, "": 1}


def read_default(cell: str) -> float | None:
    """Return the number of a cell such as `64 MiB`, `2^26` or `30 s`; None if it has words instead."""
    if power := re.fullmatch(r"2\^(\d+)", cell):
        return float(2 ** int(power[1]))
    found = re.fullmatch(r"(\d+)( s| MiB| KiB|)", cell)
    return float(found[1]) * UNITS[found[2]] if found else None


@pytest.mark.parametrize("setting", LIMITS, ids=lambda setting: setting.name)
def test_a_limit_is_on_the_page_with_its_default(setting: Setting) -> None:
    assert read_default(ROWS[setting.option[2:]]) == setting.default


def test_the_page_names_no_flag_that_does_not_exist() -> None:
    assert {f"--{name}" for name in ROWS} <= {setting.option for setting in settings_by_name().values()}
