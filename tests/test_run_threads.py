"""How many threads a run computes with, in whichever thread it is called."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nograd.backends.eager import eager_backend

TASKS = Path("/proc/self/task")


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(not TASKS.is_dir(), reason="the threads of a process are counted in /proc/self/task, which is Linux's")
@pytest.mark.usefixtures("one_thread")
def test_a_run_in_a_thread_that_never_used_torch_keeps_to_the_number_of_threads_that_is_set() -> None:
    backend = eager_backend(nn.Conv2d(3, 16, 3), [torch.rand(2, 3, 32, 32)])  # oneDNN takes OpenMP's number of threads
    batch = {"input": np.ones((8, 3, 64, 64), np.float32)}
    backend.run(batch)
    grown: list[set[str]] = []

    def run() -> None:
        before = _tasks()
        backend.run(batch)
        grown.append(_tasks() - before)  # OpenMP keeps the threads that it starts

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert grown == [set()]


def _tasks() -> set[str]:
    """Return the OpenMP threads; other libraries may start some at any time."""
    return {task.name for task in TASKS.iterdir() if _name(task) == _name(TASKS / str(threading.get_native_id()))}


def _name(task: Path) -> str:
    try:
        return (task / "comm").read_text()
    except OSError:  # it has ended
        return ""
