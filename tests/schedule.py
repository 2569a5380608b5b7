"""The order of the test files: the slowest first, so that no worker of pytest-xdist is idle at the end of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

SLOWEST_FILES = (
    "test_backends.py",
    "test_ray_serve.py",
    "test_examples.py",
    "test_tuning_command.py",
    "test_tuning.py",
    "test_classical_calls.py",
    "test_presets.py",
    "test_page.py",
    "test_predict_resume.py",
    "test_ray.py",
    "test_checks_broken.py",
    "test_cli.py",
    "test_playground.py",
    "test_predict_command.py",
    "test_schemathesis.py",
    "test_workers.py",
    "test_html.py",
    "test_checks_models.py",
)
"""Files of more than 25 s of processor time, slowest first (with their child processes, 2026-12-01)."""


def order_files(files: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return a sort key for each file: the slowest files as listed, then the others by number of tests, most first.

    Args:
        files: the file name of each test, in order of collection.
    """
    rank = {name: place for place, name in enumerate(SLOWEST_FILES)}
    return {name: (rank.get(name, len(rank)), -tests) for name, tests in Counter(files).items()}
