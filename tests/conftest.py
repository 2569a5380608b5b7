"""Hypothesis' settings, and the real servers that tests share."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from tests.running_server import RunningServer, running, serving

settings.register_profile("nograd", deadline=None, derandomize=True)
settings.load_profile("nograd")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections += [(f"stderr of {server.url}", server.stderr()) for server in running]
    return report


@pytest.fixture(scope="session")
def tiny_server() -> Iterator[RunningServer]:
    """A model named `tiny`: input `x` FP32 [-1, 16], output `output` FP32 [-1, 4]."""
    with serving("tiny", "--name", "tiny") as server:
        yield server


@pytest.fixture(scope="session")
def text_server() -> Iterator[RunningServer]:
    """A model named `echo`: input `text` BYTES [-1], output `embedding` FP32 [-1, 8]."""
    with serving("echo", "--name", "echo") as server:
        yield server


@pytest.fixture
def stoppable_server() -> Iterator[RunningServer]:
    """Like `tiny_server`, for one test, which may stop it."""
    with serving("tiny", "--name", "tiny") as server:
        yield server
