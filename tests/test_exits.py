"""How the command ends: in good order while a thread still computes, with closed standard files, and at Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nograd.runtime.exits import delayed_ctrl_c, ignored_ctrl_c, stop_reported

BUSY = """
import sys, threading, torch
from nograd.runtime.exits import leave
from nograd.runtime.threads import in_own_thread

layers = torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(8)])
computing = threading.Barrier(1 + int(sys.argv[1]))

def compute():
    rows = torch.rand(8, 64)
    layers(rows)
    computing.wait()
    while True:
        layers(rows)

for _ in range(int(sys.argv[1])):
    in_own_thread(compute)
computing.wait()
print("said", end="")
"""


@pytest.mark.parametrize(("threads", "code"), [(1, 3), (3, 0)])
def test_threads_that_still_compute_do_not_abort_the_process(threads: int, code: int) -> None:
    """With `sys.exit` each of eight runs ended with code 134, "terminate called without an active exception"."""
    done = subprocess.run(
        [sys.executable, "-c", f"{BUSY}\nleave({code})", f"{threads}"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (code, "said", "")


@pytest.mark.parametrize("thread", ["", "threading.Thread(target=threading.Event().wait, daemon=True).start()"])
def test_exit_functions_and_other_threads_come_first(thread: str) -> None:
    program = f"""
import atexit, sys, threading
from nograd.runtime.exits import leave
atexit.register(print, "exit function")
{thread}
waits = threading.Event()
threading.Thread(target=lambda: (waits.wait(), print("thread"))).start()
waits.set()
leave(7)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.split("\n")) == (7, ["thread", "exit function", ""])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_closed_standard_file_does_not_lend_its_number_to_another(number: int) -> None:
    program = "from nograd.runtime.exits import hold_standard_files; hold_standard_files(); import os; os._exit(os.pipe()[0])"
    line = ["sh", "-c", f'exec "$@" {number}{"<" if number == 0 else ">"}&-', "sh", sys.executable, "-c", program]

    assert subprocess.run(line, check=False, stderr=None if number == 2 else subprocess.PIPE).returncode > 2


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def _default_ctrl_c() -> Iterator[None]:
    """Python's own handler: what a shell runs in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_ignored_ctrl_c_never_comes_and_the_handler_is_there_again() -> None:
    with ignored_ctrl_c():
        ctrl_c()

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_delayed_ctrl_c_comes_at_the_end() -> None:
    done = []

    with pytest.raises(KeyboardInterrupt), delayed_ctrl_c():
        ctrl_c()
        done.append("the rest")

    assert done == ["the rest"]


@pytest.mark.parametrize(("writes", "told"), [(False, "there is no result"), (True, "is written")], ids=["not yet", "written"])
def test_ctrl_c_says_whether_there_is_a_result(
    writes: bool, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model.bundle"

    with pytest.raises(SystemExit) as ended, stop_reported(output):
        if writes:
            output.mkdir()
        raise KeyboardInterrupt

    assert ended.value.code == 130
    assert capsys.readouterr().err == f"stopped: {told if not writes else f'{output} {told}'}\n"
