"""The order in which test files run."""

from __future__ import annotations

from pathlib import Path

from tests.schedule import SLOWEST_FILES, order_files


def test_the_slowest_files_run_first_and_the_others_by_their_number_of_tests() -> None:
    collected = ["test_a.py", "test_b.py", "test_b.py", SLOWEST_FILES[1], SLOWEST_FILES[0]]

    keys = order_files(collected)

    assert sorted(keys, key=keys.__getitem__) == [*SLOWEST_FILES[:2], "test_b.py", "test_a.py"]


def test_each_slow_file_exists() -> None:
    assert [name for name in SLOWEST_FILES if not (Path(__file__).parent / name).is_file()] == []
