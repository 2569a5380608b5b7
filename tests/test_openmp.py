"""What the command sets for torch's threads, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nograd.runtime.openmp import spin_briefly


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"GOMP_SPINCOUNT": "10000"}),
        ({"GOMP_SPINCOUNT": "5"}, {"GOMP_SPINCOUNT": "5"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_it_is_set_where_the_user_has_set_nothing(before: dict[str, str], after: dict[str, str]) -> None:
    environment = dict(before)

    spin_briefly(environment)

    assert environment == after


def test_the_command_sets_it_before_torch_is_loaded_and_libgomp_takes_it() -> None:
    code = "import sys; sys.argv = ['nograd', '--version']\ntry: from nograd.cli import main; main()\nfinally: import torch"
    environment = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment["OMP_DISPLAY_ENV"] = "VERBOSE"

    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert "GOMP_SPINCOUNT = '10000'" in told.stderr


def test_a_limit_of_threads_holds_for_the_thread_that_sets_it_and_no_other() -> None:
    """A small model computes in the event loop with one thread; the models beside it have threads of their own."""
    program = (
        "import torch\n"
        "from nograd import Predictor\n"
        "from nograd.runtime.threads import in_own_thread\n"
        "torch.set_num_threads(3)\n"
        "backend = Predictor(torch.nn.Linear(2, 2), sample=torch.zeros(2, 2)).backend\n"
        "backend.limit_threads(1)\n"
        "print(torch.get_num_threads(), in_own_thread(torch.get_num_threads).result())\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ended.stdout == "1 3\n"
