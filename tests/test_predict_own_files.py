"""`nograd predict` continues only what it wrote itself, and leaves every other file as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nograd.datasets.journal import Commit, Header, line_of, may_be_a_journal
from nograd.datasets.records import InputPosition
from nograd.datasets.run_files import Files, WindowWriter
from nograd.datasets.windows import Layout
from nograd.errors import ConfigError
from tests.fakes import doubling
from tests.predicting import predict, write_jsonl

HEADER = Header({"input": {"size": "3 bytes"}}, Layout(8, 1000, 0, 1, 48.0))


def begun(output: Path) -> Files:
    """The files of a run that was killed after its second commit."""
    with WindowWriter(output, restart=False) as kept:
        kept.begin(HEADER)
        for number in (1, 2):
            kept.add(Commit(InputPosition(number), rows=number), b"rows %d\n" % number, b"bad %d\n" % number)
            kept.commit()
    return Files(output)


def resume(output: Path, *, restart: bool = False) -> None:
    with WindowWriter(output, restart=restart) as kept:
        kept.begin(HEADER)


@pytest.mark.parametrize("name", ["part", "errors"])
@pytest.mark.parametrize("at", [0, 8])
def test_a_changed_byte_in_what_was_committed_is_refused(tmp_path: Path, name: str, at: int) -> None:
    path = getattr(begun(tmp_path / "out.jsonl"), name)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)

    with pytest.raises(ConfigError, match=r"was changed after nograd predict wrote it: its first \d+ bytes"):
        resume(tmp_path / "out.jsonl")
    assert path.read_bytes() == data
    resume(tmp_path / "out.jsonl", restart=True)


def test_bytes_after_the_last_commit_are_not_verified_and_removed(tmp_path: Path) -> None:
    files = begun(tmp_path / "out.csv")
    whole = files.part.read_bytes()
    files.part.write_bytes(whole + b"half a wind")

    resume(tmp_path / "out.csv")
    assert files.part.read_bytes() == whole


def test_a_journal_without_checksums_is_resumed_and_stays_without(tmp_path: Path) -> None:
    files = begun(tmp_path / "out.jsonl")
    files.journal.write_bytes(line_of(HEADER) + line_of(Commit(InputPosition(2), rows=2, part_bytes=14, error_bytes=12)))

    with WindowWriter(tmp_path / "out.jsonl", restart=False) as kept:
        kept.begin(HEADER)
        kept.add(Commit(InputPosition(3), rows=3), b"rows 3\n", b"")
        assert kept.now.part_crc is None


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [("journal", b'{"version": 1}\n'), ("journal", b"\0" * 40), ("part", b"a"), ("errors", b'{"row": 1}\n')],
)
def test_a_file_of_the_same_name_that_it_did_not_write_is_refused(
    tmp_path: Path, name: str, content: bytes, *, restart: bool
) -> None:
    path = getattr(Files(tmp_path / "out.parquet"), name)
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=str(path)):
        resume(tmp_path / "out.parquet", restart=restart)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["output", "part", "errors", "journal"])
@pytest.mark.parametrize("kind", ["a symbolic link", "a named pipe", "a folder"])
def test_links_pipes_and_folders_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    path = getattr(Files(tmp_path / "out.jsonl"), name)
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "absent")

    with pytest.raises(ConfigError, match=f"{path} is {kind}; nograd predict writes plain files only"):
        resume(tmp_path / "out.jsonl", restart=True)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_foreign_part_next_to_the_journal_of_a_finished_run_is_refused(tmp_path: Path) -> None:
    files = begun(tmp_path / "out.jsonl")
    finished = Commit(InputPosition(2), rows=2, part_bytes=14, part_crc=1, ended=True, written_bytes=14)
    files.journal.write_bytes(line_of(HEADER) + line_of(finished))

    with pytest.raises(ConfigError, match=r"out\.jsonl\.part was changed"):
        resume(tmp_path / "out.jsonl")


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("at", [0, -1])
def test_a_changed_byte_of_a_finished_output_is_refused(tmp_path: Path, ending: str, at: int) -> None:
    output = tmp_path / f"out.{ending}"
    source = write_jsonl(tmp_path / "in.jsonl", [{"x": [number, 0.5]} for number in range(5)])
    predict(doubling(), source, output)
    written = output.read_bytes()
    changed = bytearray(written)
    changed[at] ^= 1
    output.write_bytes(changed)

    with pytest.raises(ConfigError, match=rf"out\.{ending} was changed after nograd predict wrote it"):
        predict(doubling(), source, output)
    assert output.read_bytes() == changed
    output.write_bytes(written)
    assert predict(doubling(), source, output).was_whole
    output.write_bytes(changed)
    assert predict(doubling(), source, output, restart=True).rows_now == 5
    assert output.read_bytes() == written


def test_a_finished_run_whose_journal_has_no_checksum_is_known_by_its_size(tmp_path: Path) -> None:
    files = begun(tmp_path / "out.jsonl")
    files.part.rename(files.output)
    files.journal.write_bytes(
        line_of(HEADER) + line_of(Commit(InputPosition(2), rows=2, part_bytes=14, ended=True, written_bytes=14))
    )

    with WindowWriter(files.output, restart=False) as kept:
        assert kept.is_whole


def test_every_beginning_of_a_first_line_may_be_a_journal() -> None:
    line = line_of(HEADER)

    assert all(may_be_a_journal(line[:cut]) for cut in range(len(line) + 1))
    assert not any(map(may_be_a_journal, (b"notes", b"0badc0de notes", b"\n", line[1:])))
