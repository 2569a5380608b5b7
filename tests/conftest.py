"""Hypothesis' settings, and the real servers that tests share."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from tests.quick import skip_slow_tests
from tests.running_server import RunningServer, running, serving

settings.register_profile("nograd", deadline=None, derandomize=True)
settings.load_profile("nograd")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="skip tests that start a process, export or compile a model")


def pytest_configure(config: pytest.Config) -> None:
    is_controller = bool(config.getoption("numprocesses", None)) and not hasattr(config, "workerinput")
    if config.getoption("quick") and not is_controller:  # pytest-xdist's controller starts the workers
        skip_slow_tests(config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections += [(f"stderr of {server.url}", server.stderr()) for server in running]
    return report


@pytest.fixture(autouse=True)
def modules_of_the_tests() -> Iterator[None]:
    """Put back `tests` and its modules where a server in this process imported them again."""
    package, before = sys.modules["tests"], sys.modules.copy()
    yield
    if sys.modules.get("tests") is not package:
        sys.modules.update({name: module for name, module in before.items() if name.partition(".")[0] == "tests"})


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
