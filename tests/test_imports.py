"""Importing the user's modules again: what runs again, what keeps its code, and what a failure leaves."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from nograd.errors import ModelLoadError
from nograd.runtime.fingerprint import of_value
from nograd.runtime.imports import fresh_imports, import_module

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules into a folder of the path; the test leaves `sys.modules` as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = dict(sys.modules)

    def write(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    yield write
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


def again(name: str) -> ModuleType:
    with fresh_imports():
        return import_module(name)


def test_an_edited_module_runs_again_with_what_it_imports_from_its_folder(write: Write) -> None:
    write(own_layers="FACTOR = 2", own_models="import own_layers\ndef make(): return own_layers.FACTOR")
    old = import_module("own_models")
    assert import_module("own_models") is old

    write(own_layers="FACTOR = 3")
    new = again("own_models")
    assert (old.make(), new.make()) == (2, 3)
    assert sys.modules["own_models"] is new


def test_an_edit_of_the_same_size_in_the_same_second_is_seen(write: Write, tmp_path: Path) -> None:
    write(own_quick="VALUE = 1")
    import_module("own_quick")
    status = (tmp_path / "own_quick.py").stat()

    write(own_quick="VALUE = 2")
    os.utime(tmp_path / "own_quick.py", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert again("own_quick").VALUE == 2


def test_a_package_runs_again_and_its_relative_imports_too(write: Write) -> None:
    models = "from .part import VALUE\nfrom . import part"
    write(**{"own_pack/__init__": "", "own_pack/part": "VALUE = 1", "own_pack/other": "VALUE = 1", "own_pack/models": models})
    old, unused = import_module("own_pack.models"), import_module("own_pack.other")

    write(**{"own_pack/part": "VALUE = 2", "own_pack/other": "VALUE = 2"})
    new = again("own_pack.models")
    assert (old.VALUE, new.VALUE, new.part.VALUE) == (1, 2, 2)
    assert unused.VALUE == 1
    import own_pack.other  # type: ignore[import-not-found]

    assert own_pack.other.VALUE == 2  # a part of the new package, not of the old one


def test_a_module_of_another_folder_runs_again_if_the_model_uses_it(
    write: Write, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.syspath_prepend(str(elsewhere))
    (elsewhere / "own_shared.py").write_text("def value(): return 1")
    (elsewhere / "own_apart.py").write_text("VALUE = 1")
    write(own_user="from own_shared import value")
    import_module("own_user")
    apart = import_module("own_apart")

    (elsewhere / "own_shared.py").write_text("def value(): return 22")
    assert again("own_user").value() == 22
    assert sys.modules["own_apart"] is apart


def test_modules_that_are_not_imported_again_stay(write: Write) -> None:
    write(own_one="VALUE = 1", own_two="import random\nVALUE = 1")
    import_module("own_one")
    other, library = import_module("own_two"), sys.modules["random"]

    again("own_one")
    assert sys.modules["own_two"] is other
    assert sys.modules["random"] is library


@pytest.mark.parametrize("damage", ["VALUE = ", "import own_absent", "raise SystemExit(3)"])
def test_a_module_that_cannot_run_again_leaves_all_modules_as_they_were(write: Write, damage: str) -> None:
    write(own_base="VALUE = 1", own_top="import own_base\nVALUE = own_base.VALUE")
    top = import_module("own_top")
    base = sys.modules["own_base"]

    write(own_base="VALUE = 2", own_top=f"import own_base\n{damage}\n")
    with pytest.raises((SyntaxError, ModuleNotFoundError, SystemExit)):
        again("own_top")
    assert sys.modules["own_top"] is top
    assert sys.modules["own_base"] is base


def test_what_runs_after_the_import_may_fail_and_leaves_the_old_modules(write: Write) -> None:
    write(own_factory="VALUE = 1")
    old = import_module("own_factory")

    write(own_factory="VALUE = 22")
    with pytest.raises(RuntimeError), fresh_imports():
        assert import_module("own_factory").VALUE == 22
        raise RuntimeError
    assert sys.modules["own_factory"] is old


def test_an_edited_module_of_an_installed_library_is_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "some-1.0.dist-info").mkdir()
    write(own_installed="VALUE = 1")
    old = import_module("own_installed")
    assert again("own_installed") is old

    write(own_installed="VALUE = 22")
    with pytest.raises(
        ModelLoadError, match=r"own_installed was edited after it was imported, and is not imported again; restart"
    ):
        again("own_installed")


def test_the_fingerprint_of_old_code_stays_when_its_file_is_edited(write: Write) -> None:
    write(own_inner="def double(x): return x * 2", own_outer="import own_inner\ndef run(x): return own_inner.double(x)")
    old = import_module("own_outer")
    before = of_value(old.run)

    write(own_inner="def double(x): return x * 3")
    assert of_value(old.run) == before
    assert of_value(again("own_outer").run) != before
    importlib.invalidate_caches()
