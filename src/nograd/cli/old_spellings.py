"""Old spellings of options: rewritten before a command line is parsed, with one note for each. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["OldSpelling", "modernize", "note_commas"]

NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+")


@dataclass(frozen=True, slots=True)
class OldSpelling:
    """An option that has another name now."""

    old: str
    """Such as `--timeout-s`."""

    new: str
    """Such as `--timeout`; of a flag the whole option, such as `--format=json`."""

    unit: str = ""
    """Unit of a number without one: the old name held it."""

    is_flag: bool = False

    def value(self, text: str) -> str:
        """Return a value as the new option takes it.

        >>> OldSpelling("--timeout-s", "--timeout", "s").value("30")
        '30s'
        """
        return f"{text}{self.unit}" if NUMBER.fullmatch(text) else text


def note_commas(option: str) -> str:
    """Return the note on a repeated option whose value has commas."""
    return f"commas in {option} are an old spelling; repeat the option: {option} A {option} B"


def modernize(arguments: Sequence[str], spellings: Iterable[OldSpelling]) -> tuple[list[str], list[str]]:
    """Return a command line with the new spellings, and a note for each old spelling in it.

    >>> modernize(["m", "--timeout-s", "30"], [OldSpelling("--timeout-s", "--timeout", "s")])
    (['m', '--timeout=30s'], ['--timeout-s is an old spelling; write --timeout 30s'])
    """
    table = {each.old: each for each in spellings}
    found: list[str] = []
    notes: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        name, sign, value = word.partition("=")
        spelling = table.get(name)
        if word == "--":
            found += [word, *words]
        elif spelling is None:
            found.append(word)
        elif spelling.is_flag:
            found.append(spelling.new)
            notes.setdefault(name, f"{name} is an old spelling; write {spelling.new.replace('=', ' ')}")
        elif (text := value if sign else next(words, None)) is None:
            found.append(spelling.new)  # the parser reports the missing value
        else:
            found.append(f"{spelling.new}={spelling.value(text)}")
            notes.setdefault(name, f"{name} is an old spelling; write {spelling.new} {spelling.value(text)}")
    return found, list(notes.values())
