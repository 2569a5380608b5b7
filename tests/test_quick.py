"""What `pytest --quick` skips, and when."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.quick import SlowActions


@pytest.mark.parametrize("event", ["subprocess.Popen", "os.fork", "os.posix_spawn"])
def test_a_process_skips_the_test_that_starts_it_but_pytest_may_start_its_own(event: str) -> None:
    actions = SlowActions()
    actions.audit(event, ())
    actions.is_watching = True
    actions.audit("open", ())

    with pytest.raises(pytest.skip.Exception, match="not quick: it starts a process"):
        actions.audit(event, ())


def test_a_slow_call_skips_the_test_that_makes_it_and_works_at_other_times() -> None:
    actions, torch = SlowActions(), SimpleNamespace(__name__="torch", compile=lambda model, *, mode: (model, mode))
    actions.guard(torch, "compile")

    assert torch.compile("model", mode="fast") == ("model", "fast")
    actions.is_watching = True
    with pytest.raises(pytest.skip.Exception, match=r"not quick: it calls torch\.compile"):
        torch.compile("model", mode="fast")
