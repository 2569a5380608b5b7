"""What the command sets for torch's threads, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nograd.openmp import spin_briefly


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
