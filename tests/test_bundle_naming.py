"""Callables are found again by module and name; what has no name is refused, with what to do."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import pytest

from nograd.bundle.manifest import ImportedStep
from nograd.bundle.naming import find, import_step
from nograd.errors import ConfigError, ModelLoadError
from tests import bundles
from tests.bundles import Doubles, Times, prepare
from tests.waiting import HANG_S


@pytest.mark.parametrize("step", [prepare, Times, len], ids=["function", "class", "builtin"])
def test_what_a_module_holds_under_a_name_is_found_again(step: Any) -> None:
    assert find(import_step(step, "preprocess")) is step


def test_an_object_that_its_class_makes_anew_is_made_anew() -> None:
    step = import_step(Doubles(), "preprocess")

    assert step == ImportedStep("tests.bundles:Doubles", is_instance=True)
    assert isinstance(find(step), Doubles)


def local() -> Any:
    def inside(item: Any) -> Any:
        return item

    return inside


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (lambda item: item, "preprocess is a lambda: no module has a name for it"),
        (local(), "it is defined inside of a function"),
        (Times(2), "it is an object with the state factor"),
        (partial(prepare), "no module has a name for it"),
        (Times(2).__call__, "no module has a name for it"),
    ],
    ids=["lambda", "closure", "object", "partial", "bound method"],
)
def test_what_has_no_name_is_refused_with_what_to_do(step: Any, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        import_step(step, "preprocess")

    assert why in str(caught.value)
    assert "make it a function at the top of a module that can be imported" in str(caught.value)


def test_a_name_that_leads_to_something_else_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "prepare", lambda item: item)

    with pytest.raises(ConfigError, match="no module has a name for it"):
        import_step(prepare, "preprocess")


def test_what_a_script_defines_is_refused() -> None:
    code = (
        "from nograd.bundle.naming import import_step\nfrom nograd.errors import ConfigError\n"
        "def prepare(item): return item\n"
        "try:\n    import_step(prepare, 'preprocess')\nexcept ConfigError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=True)

    assert "it is defined in the script that runs; a bundle finds it by module and name" in done.stdout


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:prepare", "there is no module 'no_such_module', from "),
        ("tests.bundles:nothing", "tests.bundles:nothing cannot be imported: AttributeError"),
        ("tests.bundles:WORDS", "tests.bundles:WORDS is dict; it must be callable"),
    ],
)
def test_a_name_that_leads_nowhere_here_is_one_sentence(name: str, said: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        find(ImportedStep(name))

    assert said in str(caught.value)
