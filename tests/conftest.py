"""Settings of a test run, and the real servers that tests share."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from tests.onnx_operators import keep_table
from tests.quick import skip_slow_tests
from tests.running_server import RunningServer, running, serving
from tests.schedule import order_files

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # for torch, which is not imported yet, and for the servers
# Two workers on two cores: a torch thread that spins takes the core from the other worker. The tests of offload took 40 s of
# processor time with libgomp's default and 25 s without spinning; the number of threads stays as it is (2026-12-01).
os.environ.setdefault("MKL_DISABLE_FAST_MM", "1")
# Tuning forks this process. In a child whose parent had run many threads, MKL's manager of buffers searched its list of threads
# without an end (`mm_account_ptr_by_tid`, torch 2.13).
os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")  # of the calls between kernels; kernels stay at O3
os.environ.setdefault("AOT_INDUCTOR_ENABLE_LINE_TABLES", "0")  # for profilers: 1 s of each compilation, half of the file's size

settings.register_profile("nograd", deadline=None, derandomize=True)
settings.load_profile("nograd")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="skip tests that start a process, export or compile a model")


def pytest_configure(config: pytest.Config) -> None:
    is_controller = bool(config.getoption("numprocesses", None)) and not hasattr(config, "workerinput")
    if config.getoption("quick") and not is_controller:  # pytest-xdist's controller starts the workers
        skip_slow_tests(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files, not the tests of a file; the Makefile's `--no-loadscope-reorder` lets pytest-xdist keep this order."""
    keys = order_files([item.path.name for item in items])
    items.sort(key=lambda item: keys[item.path.name])


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Write bytecode while tests are collected, even if PYTHONDONTWRITEBYTECODE is set, as it is in many containers.

    Rewriting the assertions of all tests takes half of the time of a collection, and each server that a test starts would
    compile nograd again: 1.3 s of processor time for `nograd serve --help`, and 0.4 s with bytecode (2026-12-01).
    Later imports write nothing, because bytecode misses a module that a test writes twice within a second.
    """
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = before


def pytest_collection_finish() -> None:
    freeze_heap()


def freeze_heap() -> None:
    """Exempt the objects that are alive now from garbage collection, so that each `gc.collect` visits only later ones."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def small_heap() -> None:
    """Freeze the heap before a file of tests that collect garbage many times."""
    freeze_heap()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections += [(f"stderr of {server.url}", server.stderr()) for server in running]
    return report


@pytest.fixture(scope="session", autouse=True)
def short_measurements() -> Iterator[None]:
    """Measure a model's cost curve in a tenth of the time, with five runs of each size as ever.

    Tests start some hundred servers in this process; each measured its models for 30 ms.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nograd.batching.measure.SIZE_S", 0.0005)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    keep_table()


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
    with serving("dense", "--name", "tiny") as server:
        yield server


@pytest.fixture(scope="session")
def text_server() -> Iterator[RunningServer]:
    """A model named `echo`: input `text` BYTES [-1], output `embedding` FP32 [-1, 8]."""
    with serving("letters", "--name", "echo") as server:
        yield server


@pytest.fixture
def stoppable_server() -> Iterator[RunningServer]:
    """Like `tiny_server`, for one test, which may stop it."""
    with serving("dense", "--name", "tiny") as server:
        yield server
