"""stderr as a queue: a reader that stalls, a full disk or a closed pipe costs lines, never time, and never an answer."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nograd.runtime.stderr import QueuedStderr, queued_stderr
from tests.running_server import FOLDER
from tests.waiting import HANG_S


class Target:
    """Takes bytes; while it is held, a write waits, and while it is full, a write raises."""

    def __init__(self) -> None:
        self.written = b""
        self.is_full = False
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.opened.set()

    def put(self, data: bytes) -> None:
        self.entered.set()
        assert self.opened.wait(HANG_S)
        if self.is_full:
            raise OSError("no space left")
        self.written += data


@contextmanager
def held(target: Target, stream: QueuedStderr) -> Iterator[None]:
    """Have the stream's thread wait inside a write."""
    target.opened.clear()
    target.entered.clear()
    stream.write("held\n")
    assert target.entered.wait(HANG_S)
    try:
        yield
    finally:
        target.opened.set()


def test_text_is_written_in_order() -> None:
    target = Target()
    stream = QueuedStderr(target.put)

    for number in range(1000):
        print(number, file=stream)

    assert stream.end()
    assert target.written.decode().split() == [*map(str, range(1000))]


def test_a_reader_that_stalls_holds_up_nobody_and_the_missing_lines_are_counted() -> None:
    target = Target()
    stream = QueuedStderr(target.put, limit_bytes=10)

    with held(target, stream):
        for text in ("first\n", "second\n", "third\nfourth\n"):
            stream.write(text)
        assert not stream.drain(0)
        assert stream.dropped_lines == 3
    assert stream.drain()
    stream.write("after\n")

    assert stream.end()
    assert target.written.decode().splitlines() == [
        "held", "nograd: 3 lines are missing here: stderr was full, closed, or not read", "first", "after",
    ]  # fmt: skip


def test_a_full_disk_costs_lines_until_there_is_room_again() -> None:
    target = Target()
    stream = QueuedStderr(target.put)
    stream.notice = lambda lines: f"missing={lines}\n"

    target.is_full = True
    stream.write("lost\n")
    assert not stream.drain()
    target.is_full = False
    stream.write("there\n")

    assert stream.end()
    assert (target.written, stream.dropped_lines) == (b"missing=1\nthere\n", 1)


def test_at_the_end_a_reader_that_stalls_is_not_waited_for() -> None:
    target = Target()
    stream = QueuedStderr(target.put)

    with held(target, stream):
        assert not stream.end(0)


def test_one_that_may_wait_gets_its_lines_written_whole() -> None:
    target = Target()
    stream = QueuedStderr(target.put, limit_bytes=10)

    def write() -> None:
        for number in range(100):
            stream.write_whole(f"line {number}\n")

    writer = threading.Thread(target=write)

    writer.start()
    writer.join(10)

    assert stream.end()
    assert (target.written.decode().splitlines(), stream.dropped_lines) == ([f"line {number}" for number in range(100)], 0)


def test_what_is_no_utf8_is_escaped() -> None:
    target = Target()
    stream = QueuedStderr(target.put)

    stream.write("\udcff\n")

    assert stream.end()
    assert target.written == b"\\udcff\n"


def test_bytes_are_refused_as_by_any_text_stream() -> None:
    stream = QueuedStderr(Target().put)

    with pytest.raises(TypeError, match="stderr takes str, not bytes"):
        stream.write(b"")  # type: ignore[arg-type]
    assert stream.end()


def test_within_the_context_sys_stderr_is_the_queue_and_afterwards_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    before = io.StringIO()
    monkeypatch.setattr(sys, "stderr", before)

    with queued_stderr() as stream, queued_stderr() as again:
        assert (stream, again) == (sys.stderr, sys.stderr)
        sys.stderr.write("said\n")

    afterwards: object = sys.stderr
    assert afterwards is before
    assert before.getvalue() == "said\n"


# -- the command


def command(*arguments: str, stderr: int | None, closed: bool = False) -> subprocess.CompletedProcess[str]:
    """Run `nograd`, with this stderr, or none."""
    line = [sys.executable, "-m", "nograd", *arguments]
    if closed:
        line = ["sh", "-c", 'exec "$@" 2>&-', "sh", *line]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        line, cwd=FOLDER, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False, timeout=100, env=environment
    )


@pytest.mark.parametrize("how", ["full", "closed", "broken", "stalled"])
def test_a_reason_that_stderr_does_not_take_is_on_stdout(how: str) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    reads, writes = os.pipe()
    if how == "broken":
        os.close(reads)
    if how == "stalled":
        os.set_blocking(writes, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writes, b"x" * 4096)
        os.set_blocking(writes, True)
    try:
        done = command("serve", "--port", "0", stderr=full if how == "full" else writes, closed=how == "closed")
    finally:
        for number in (full, writes, *([] if how == "broken" else [reads])):
            os.close(number)

    assert done.returncode == 2
    assert done.stdout.startswith("nograd: there is no model to serve")


@pytest.mark.parametrize("descriptor", [1, 2])
def test_leaving_with_a_closed_standard_file_keeps_the_exit_code_while_a_daemon_thread_runs(descriptor: int) -> None:
    program = (
        "import threading, nograd.runtime.exits as exits\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "exits.leave(7)"
    )
    line = ["sh", "-c", f'exec "$@" {descriptor}>&-', "sh", sys.executable, "-c", program]

    assert subprocess.run(line, check=False, timeout=HANG_S).returncode == 7
