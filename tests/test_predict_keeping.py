"""The files that a run of `nograd predict` keeps: cut off at any byte, they tell the truth."""

from __future__ import annotations

from contextlib import suppress
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nograd.datasets.identity import differences
from nograd.datasets.journal import Commit, Header, JournalContent, line_of, read
from nograd.datasets.outputs import JsonOutput
from nograd.datasets.records import InputPosition
from nograd.datasets.run_files import Files, WindowWriter
from nograd.datasets.windows import Layout
from tests.predicting import CrashError, crashing

HEADER = Header({"input": {"size": "3 bytes"}}, Layout(8, 1000, 0, 1, 48.0))
COMMITS = st.lists(st.integers(1, 50), max_size=12).map(
    lambda steps: [Commit(InputPosition(n, 10 * n), rows=n, part_bytes=100 * n) for n in accumulate(steps)]
)


@given(COMMITS, st.data())
def test_a_journal_cut_off_anywhere_or_with_anything_behind_it_tells_the_last_whole_line(
    commits: list[Commit], data: st.DataObject
) -> None:
    lines = [line_of(HEADER), *map(line_of, commits)]
    content = b"".join(lines)
    cut = data.draw(st.integers(0, len(content)))
    rest = data.draw(st.binary(max_size=40))

    ends = list(accumulate(map(len, lines)))
    whole = sum(end <= cut for end in ends)
    expected = JournalContent(
        HEADER if whole else None, commits[whole - 2] if whole > 1 else Commit(), ends[whole - 1] if whole else 0
    )

    assert read(content[:cut]) == expected
    if rest and not (content[cut:] + b"\n").startswith(rest.split(b"\n")[0] + b"\n"):
        assert read(content[:cut] + rest) == expected


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.binary(max_size=30), st.binary(max_size=5), st.booleans()), min_size=1, max_size=8),
    st.integers(0, 3000),
)
def test_whatever_stops_it_at_any_byte_nothing_is_lost_or_doubled(
    tmp_path_factory: pytest.TempPathFactory, windows: list[tuple[bytes, bytes, bool]], after: int
) -> None:
    output = tmp_path_factory.mktemp("run") / "out.jsonl"

    def go_on() -> int:
        with WindowWriter(output, restart=False) as kept:
            if kept.is_whole:
                return kept.now.place.number
            kept.begin(HEADER)
            begun_at = kept.now.place.number
            for number, (rows, errors, is_safe) in enumerate(windows[begun_at:], start=begun_at + 1):
                kept.add(Commit(InputPosition(number), rows=number), rows, errors)
                if is_safe:
                    kept.commit()
            kept.commit()
            kept.finish(JsonOutput())
        return begun_at

    with pytest.MonkeyPatch.context() as patch:
        crashing(patch, after)
        with suppress(CrashError):
            go_on()
    go_on()

    assert output.read_bytes() == b"".join(rows for rows, _, _ in windows)
    errors = Files(output).errors
    assert (errors.read_bytes() if errors.exists() else b"") == b"".join(bad for _, bad, _ in windows)
    assert not Files(output).part.exists()


def test_differences_are_named_with_both_values() -> None:
    then = {"input": {"size": "3 bytes"}, "options": {"drop": "none", "keep": "all"}, "model": {"name": "a"}}
    now = {"input": {"size": "4 bytes"}, "options": {"drop": "b", "keep": "all"}, "model": {"fingerprint": "c"}}

    assert differences(then, then) == []
    assert differences(then, now) == [
        "input: size was 3 bytes and is 4 bytes", "drop was none and is b", "model: name was a and is absent",
        "model: fingerprint was absent and is c",
    ]  # fmt: skip
