"""A watch over work: far too long without progress writes the stacks of all threads, and ends nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nograd.runtime.stalls import StallWatch, stall_limit


class Alarm:
    """A clock that the test sets, and what was armed."""

    def __init__(self) -> None:
        self.now = 0.0
        self.limits: list[float] = []
        self.said: list[str] = []
        self.is_set = False

    def watch(self) -> StallWatch:
        return StallWatch(60, say=self.said.append, clock=lambda: self.now, arm=self.arm, disarm=self.disarm)

    def arm(self, seconds: float, _number: int) -> None:
        self.limits.append(seconds)
        self.is_set = True

    def disarm(self) -> None:
        self.is_set = False


@pytest.mark.parametrize(("longest", "limit"), [(None, 600.0), (0.0, 60.0), (3.0, 60.0), (4.0, 80.0), (100.0, 2000.0)])
def test_the_limit_follows_the_longest_pause(longest: float | None, limit: float) -> None:
    assert stall_limit(longest, 60) == limit


def test_the_alarm_follows_the_work_and_is_off_at_the_end() -> None:
    alarm = Alarm()
    with alarm.watch() as watch:
        for alarm.now in (10.0, 10.1, 10.2, 30.0):
            watch.progressed()

    assert alarm.limits == [600.0, 200.0, 396.0]  # at the start, after 10 s, and after 19.8 s more; not for a tenth
    assert not alarm.is_set
    assert not alarm.said


def test_work_that_continues_after_a_stall_says_so() -> None:
    alarm = Alarm()
    with alarm.watch() as watch:
        for alarm.now in (1.0, 62.0, 63.0):
            watch.progressed()

    assert alarm.said == ["work continues after 61 s without progress; the stacks of all threads are above"]


KEEPS_THE_LOCK = """
import ctypes, signal, sys, threading
from nograd.runtime.stalls import StallWatch

def never_returns():
    ctypes.PyDLL(None).pause()  # in C, without giving the interpreter's lock back

StallWatch(0.005, number=int(sys.argv[1])).__enter__()
threading.Thread(target=never_returns, daemon=True).start()
threading.Event().wait()
"""


def test_stacks_are_written_although_a_thread_keeps_the_interpreters_lock() -> None:
    reads, writes = os.pipe()
    with subprocess.Popen([sys.executable, "-c", KEEPS_THE_LOCK, str(writes)], pass_fds=[writes]) as process:
        os.close(writes)
        with os.fdopen(reads) as stacks:
            lines = []
            for line in stacks:
                lines.append(line)
                if "<module>" in line:  # the main thread's, which comes last
                    break
            process.kill()

    assert lines[0].startswith("Timeout")
    assert any("in never_returns" in line for line in lines)


def test_stacks_that_nobody_reads_hold_up_nothing() -> None:
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writes, b"x" * 4096)
    os.set_blocking(writes, True)
    program = f"""
from nograd.runtime.stalls import StallWatch, _unblocked
import os
number = _unblocked({writes})
try:
    os.write(number, b"x" * 4096)
except BlockingIOError:
    print("it does not block")
print(os.get_blocking({writes}))
"""
    done = subprocess.run([sys.executable, "-c", program], pass_fds=[writes], capture_output=True, text=True, check=False)
    os.close(reads)
    os.close(writes)

    assert done.stdout.splitlines() == ["it does not block", "True"], done.stderr
