"""`pytest --quick`: only tests that start no process and export or compile no model.

A test is recognised by what it does: in a quick run, its first slow action skips it. So no list of slow tests has to be
maintained, and a new test belongs to `make quick` if it is cheap. `make test` runs all tests.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable
from typing import Any

import pytest
from hypothesis import settings

PROCESSES = frozenset({"os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen"})
"""Audit events of a process that starts: a server, a command, a browser, Redis, a compiler."""

NOT_QUICK = "not quick: it"
"""How the reason of every skip begins."""

MAX_EXAMPLES = 10
"""Examples of a property in a quick run; `make test` runs Hypothesis' default of 100."""


def slow_calls() -> Iterable[tuple[Any, str]]:
    """Yield the functions that export or compile a model, each with the module that holds it."""
    import torch

    return ((torch, "compile"), (torch.export, "export"), (torch.onnx, "export"))


class SlowActions:
    """Skips a test at its first slow action; does nothing while no test runs, because pytest itself starts processes."""

    def __init__(self) -> None:
        self.is_watching = False
        self.reason = ""

    def skip(self, reason: str) -> None:
        if self.is_watching:
            self.reason = f"{NOT_QUICK} {reason}"
            pytest.skip(self.reason)

    def audit(self, event: str, _arguments: tuple[Any, ...]) -> None:
        if event in PROCESSES:
            self.skip("starts a process")

    def guard(self, owner: Any, name: str) -> None:
        """Let a call of this function skip the test that makes it."""
        original: Callable[..., Any] = getattr(owner, name)

        def guarded(*arguments: Any, **options: Any) -> Any:
            self.skip(f"calls {owner.__name__}.{name}")
            return original(*arguments, **options)

        setattr(owner, name, guarded)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Any:
        self.is_watching, self.reason = True, ""
        try:
            return (yield)
        finally:
            self.is_watching = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Report a skip as a skip even if the code under test made another error of it, or a shared fixture did before."""
        report = yield
        if report.failed and (self.reason or NOT_QUICK in report.longreprtext):
            path, line, _ = report.location
            report.outcome, report.longrepr = "skipped", (path, line or 0, self.reason or NOT_QUICK)
        return report

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if item.get_closest_marker("browser") is not None:
                item.add_marker(pytest.mark.skip(reason=f"{NOT_QUICK} starts a browser"))


def skip_slow_tests(config: pytest.Config) -> None:
    """Skip, for the rest of this process, every test at its first slow action."""
    settings.register_profile("quick", settings.get_profile("nograd"), max_examples=MAX_EXAMPLES)
    settings.load_profile("quick")
    actions = SlowActions()
    sys.addaudithook(actions.audit)
    for owner, name in slow_calls():
        actions.guard(owner, name)
    config.pluginmanager.register(actions)
