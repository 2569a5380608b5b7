"""First runs of the openvino backend in several threads at once: each ends.

OpenVINO's binding fills tables on its first use in a process, so each try is a fresh process. They are forked after the
imports, which cost most of the time, and before any computation. Without `fill_dtype_tables` four tries in ten hang.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nograd.backends.openvino import export_to_openvino

TRIES = 4

SCRIPT = """
import os, signal, sys, threading
import numpy as np
from nograd.backends.openvino import OpenVinoBackend

path, backends, lanes, tries = sys.argv[1], *map(int, sys.argv[2:])

def first_runs():
    signal.alarm(60)  # ends a process whose threads all wait for Python's lock
    sys.setswitchinterval(1e-6)
    opened = [OpenVinoBackend(path, lanes=lanes, num_threads=1) for _ in range(backends)]
    together, answers = threading.Barrier(backends * lanes), []
    def first_run(backend):
        together.wait()
        answers.append(backend.run({"input": np.ones((2, 4), np.float32)}))
    threads = [threading.Thread(target=first_run, args=(each,)) for each in opened for _ in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(answers) == backends * lanes

for _ in range(tries):
    child = os.fork()
    if not child:
        os._exit(0 if first_runs() else 3)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("openvino") / "model.xml"
    export_to_openvino(torch.nn.Identity(), torch.rand(2, 4), path)
    return path


@pytest.mark.parametrize(("backends", "lanes"), [(1, 4), (3, 1)], ids=["lanes", "backends"])
def test_first_runs_at_the_same_time_all_end(file: Path, backends: int, lanes: int) -> None:
    command = [sys.executable, "-c", SCRIPT, *map(str, (file, backends, lanes, TRIES))]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.stdout.split() == ["0"] * TRIES, done.stderr
