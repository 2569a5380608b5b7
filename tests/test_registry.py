"""One table of backends: nograd's own, and what other packages offer; a package with a fault harms no other backend."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nograd
from nograd.backends.kinds import Kind, LoadOptions
from nograd.backends.modules import ModuleBackend
from nograd.backends.opening import open_backend, wrap_module, write_file
from nograd.backends.registry import BUILT_IN, all_kinds, find_kind, find_suffix, find_target, rank, runtimes, why_unknown
from nograd.bundle import BundleSettings, ModelFactory, write_bundle
from nograd.core.parity import EXACT
from nograd.errors import ConfigError, ExportError, ModelLoadError
from nograd.exports import open_file
from nograd.tuning.candidates import variants
from tests.plugins import install, install_plain
from tests.tuning_tasks import Classifier
from tests.waiting import HANG_S

KIND = """
from nograd.backends.kinds import Kind
KIND = Kind(name="{name}", suffix=".{name}", load="m:load", export="m:export"{more})
"""


def kind_source(name: str, more: str = "") -> str:
    return KIND.format(name=name, more=more)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for packages, on `sys.path`; modules that are imported from it are forgotten."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [path.stem for path in folder.glob("*.py")]:
        sys.modules.pop(name, None)


def kind(**changes: Any) -> Kind:
    return Kind(**{"name": "mine", "suffix": ".mine", "load": "m:load", "export": "m:export", **changes})


# -- nograd's own


@pytest.mark.parametrize("found", BUILT_IN, ids=lambda found: found.name)
def test_the_functions_of_every_backend_exist(found: Kind) -> None:
    for name in filter(None, (found.load, found.export, found.wrap, found.pack)):
        module, _, function = name.partition(":")
        assert callable(getattr(import_module(module), function)), name


def test_a_backend_of_nograd_is_found_without_a_look_at_the_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(**_: object) -> None:
        raise AssertionError("the installed packages were read")

    monkeypatch.setattr(metadata, "entry_points", never)
    found = [find_kind("onnx"), find_suffix(".xml"), find_target("pt2")]

    assert [each.name for each in found if each] == ["onnx", "openvino", "aot"]
    assert [rank(each.name) for each in BUILT_IN] == [0, 1, 2, 3, 4, 5]
    assert find_suffix("") is None


def test_importing_nograd_and_its_help_read_no_entry_points() -> None:
    program = (
        "import importlib.metadata as metadata, sys\n"
        "def never(**_): raise AssertionError('the installed packages were read')\n"
        "metadata.entry_points = never\n"
        "import nograd, nograd.cli.application\n"
        "sys.argv = ['nograd', '--help']\n"
        "try:\n    nograd.cli.main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print([name for name in ('nograd.backends.registry', 'torch', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG_S, check=False)

    assert (done.stderr, done.stdout.splitlines()[-1]) == ("", "[]")


def test_the_packages_of_all_backends_are_listed_once_with_their_other_names() -> None:
    assert runtimes() == [("torch",), ("onnxruntime", "onnxruntime-gpu"), ("openvino",)]
    assert runtimes(kind(libraries=("torch",), distribution="nograd-mine"))[-1] == ("nograd-mine",)


# -- fields of a kind


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "My Backend"}, "the backend's name is 'My Backend'; it must be lower-case letters, digits, '-' and '_'"),
        ({"name": "../up"}, "the backend's name is '../up'"),
        ({"suffix": "mine"}, "suffix is 'mine'; it must be a dot and letters or digits, such as '.onnx'"),
        ({"load": ""}, "load is ''; it must be 'package.module:function'"),
        ({"export": "m.export"}, "export is 'm.export'; it must be 'package.module:function'"),
        ({"wrap": "m:wrap"}, "wrap is 'm:wrap'; a backend has a suffix, load and export, or wrap"),
        ({"suffix": ""}, "wrap is ''; it must be 'package.module:function'"),
        ({"precisions": ("float8",)}, "precisions contains 'float8'; it must contain some of float32, bfloat16, float16"),
        ({"libraries": ()}, "libraries is empty; it must name the package that computes, such as 'torch'"),
    ],
)
def test_a_field_that_is_not_allowed_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**changes)

    assert str(caught.value).startswith(said)


def test_companions_have_the_name_of_the_file() -> None:
    files = {
        each.name: [file.name for file in each.files(Path("a/my.model" + each.suffix))] for each in BUILT_IN if each.suffix
    }

    assert files == {
        "onnx": ["my.model.onnx", "my.model.onnx.data"], "openvino": ["my.model.xml", "my.model.bin"],
        "torchscript": ["my.model.pt"], "aot": ["my.model.pt2"],
    }  # fmt: skip


# -- other packages


def test_a_package_is_found_by_name_suffix_and_target_after_nograds_own(site: Path) -> None:
    install(site, "nograd-fast", {"fast": "fast_kind:KIND"}, {"fast_kind": kind_source("fast", ', export_name="quick"')})

    found = find_kind("fast")
    assert found is not None
    assert (found.distribution, find_suffix(".fast"), find_target("quick"), find_target("fast")) == (
        "nograd-fast",
        found,
        found,
        None,
    )
    assert [each.name for each in all_kinds()] == [*(each.name for each in BUILT_IN), "fast"]
    assert rank("fast") == len(BUILT_IN)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_library\n", "bad_kind:KIND raised ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise SystemExit(3)\n", "bad_kind:KIND raised SystemExit: 3"),
        ("", "bad_kind:KIND raised AttributeError: module 'bad_kind' has no attribute 'KIND'"),
        ("KIND = 'torch'\n", "bad_kind:KIND is str; it must be a nograd.backends.kinds.Kind"),
        (kind_source("other"), "bad_kind:KIND is named 'other'; the entry point must have the same name"),
        (
            kind_source("bad", ', precisions=("float32", "int8-dynamic")'),
            "precisions contains 'int8-dynamic'; those of a package may be float32, bfloat16, float16",
        ),
        (kind_source("bad", ', precisions=("float8",)'), "bad_kind:KIND raised ConfigError: precisions contains 'float8'"),
    ],
)
def test_a_package_with_a_fault_is_named_once_and_harms_no_other(site: Path, source: str, said: str) -> None:
    install(site, "nograd-bad", {"bad": "bad_kind:KIND"}, {"bad_kind": source})
    install(site, "nograd-good", {"good": "good_kind:KIND"}, {"good_kind": kind_source("good")})

    with pytest.warns(UserWarning, match="cannot be used") as caught:
        names = [each.name for each in all_kinds()]
    again = find_kind("bad")
    reason = why_unknown("bad", "nograd-bad")

    assert names == [*(each.name for each in BUILT_IN), "good"]
    assert again is None
    assert [str(each.message) for each in caught] == [reason]
    assert reason.startswith(f"backend 'bad' of the package nograd-bad cannot be used: {said}")


@pytest.mark.parametrize("name", ["onnx", "eager"])
def test_a_package_cannot_take_the_name_of_a_backend_of_nograd(site: Path, name: str) -> None:
    install(site, "nograd-thief", {name: "thief_kind:KIND"}, {"thief_kind": kind_source(name)})

    with pytest.warns(UserWarning, match="cannot be used") as caught:
        kinds = all_kinds()

    assert kinds == BUILT_IN
    said = f"backend {name!r} of the package nograd-thief cannot be used: nograd has a backend of this name already"
    assert [str(each.message) for each in caught] == [said]


def test_of_two_packages_with_one_name_the_first_by_alphabet_is_used_and_the_other_named(site: Path) -> None:
    install(site, "nograd-b", {"same": "b_kind:KIND"}, {"b_kind": kind_source("same")})
    install(site, "nograd-a", {"same": "a_kind:KIND"}, {"a_kind": kind_source("same")})

    with pytest.warns(UserWarning, match="cannot be used") as caught:
        found = find_kind("same")

    assert found is not None
    assert found.distribution == "nograd-a"
    said = "backend 'same' of the package nograd-b cannot be used: the package nograd-a has a backend of this name already"
    assert [str(each.message) for each in caught] == [said]


def test_what_a_package_needs_is_said_before_it_is_built(site: Path) -> None:
    more = ', requires="no_such_library", build_s=5.0, precisions=("float32", "bfloat16")'
    install(site, "nograd-fast", {"fast": "fast_kind:KIND"}, {"fast_kind": kind_source("fast", more)})

    found = variants(Classifier(), EXACT, backends=["fast"])

    assert [(each.backend, each.precision) for each in found if each.backend == "fast"] == [
        ("fast", "float32"),
        ("fast", "bfloat16"),
    ]
    assert {each.why_not for each in found if each.backend == "fast"} == {
        "no_such_library is not installed, which the package nograd-fast needs"
    }
    with pytest.raises(
        ConfigError, match=r"backends contains 'slow'; it must contain some of eager, onnx, .*, compiled, fast$"
    ):
        variants(Classifier(), EXACT, backends=["slow"])


# -- functions of other packages


def functions(site: Path, source: str, **fields: str) -> Kind:
    """Install functions of a package, and return its kind."""
    (site / "m.py").write_text(source)
    return kind(distribution="nograd-mine", **fields)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def load(path, options): return 3", "the package nograd-mine returned int for 'mine'; it must return a Backend"),
        ("import no_such_library", "backend 'mine' of the package nograd-mine needs no_such_library, which is not installed"),
        (
            "def load(path, options): raise KeyError('weights')",
            "backend 'mine' of the package nograd-mine raised KeyError: 'weights' while opening a.mine",
        ),
        ("def load(path): pass", "backend 'mine' of the package nograd-mine raised TypeError: load() takes 1 positional"),
        (
            "from tests.fakes import doubling\ndef load(path, options): return doubling()",
            "the package nograd-mine returned a backend named 'fake'; its name must be 'mine'",
        ),
    ],
)
def test_what_a_package_does_wrong_is_one_sentence_with_its_name(site: Path, source: str, said: str) -> None:
    found = functions(site, source)

    with pytest.raises(ModelLoadError) as caught:
        open_backend(found, Path("a.mine"), LoadOptions())

    assert str(caught.value).startswith(said)


def test_a_file_that_holds_code_is_opened_only_if_it_is_trusted(site: Path) -> None:
    found = functions(site, "def load(path, options): raise KeyError('opened')", code="native code")

    with pytest.raises(ConfigError, match=r"a\.mine contains native code, and opening it runs that code; .* \(--trusted\)$"):
        open_backend(found, Path("a.mine"), LoadOptions())
    with pytest.raises(ModelLoadError, match="opened"):
        open_backend(found, Path("a.mine"), LoadOptions(trusted=True))


def classifier() -> nograd.Predictor:
    """The factory of the bundle below."""
    return nograd.Predictor(Classifier(), sample=torch.zeros(2, 8))


def reference() -> ModuleBackend:
    found = classifier().backend
    assert isinstance(found, ModuleBackend)
    return found


def test_an_exporter_of_a_package_must_return_its_proof(site: Path, tmp_path: Path) -> None:
    found = functions(site, "def export(reference, path): path.write_bytes(b'')")

    with pytest.raises(ExportError, match="m:export of the package nograd-mine returned NoneType; it must return an Export"):
        write_file(found, reference(), tmp_path / "a.mine")


WRAPPER: Mapping[str, str] = {
    "m": """
from nograd.backends.kinds import Kind
from nograd.backends.modules import ModuleBackend
KIND = Kind(name="wrapped", wrap="m:wrap")
def wrap(module, options):
    return ModuleBackend(module.model, module.signature, module.call, name="wrapped", lanes=options.lanes)
"""
}


def test_a_package_that_wraps_modules_is_bundled_with_its_factory(site: Path, tmp_path: Path) -> None:
    install(site, "nograd-wrapped", {"wrapped": "m:KIND"}, WRAPPER)
    model = reference()
    found = find_kind("wrapped")
    assert found is not None
    settings = BundleSettings(name="c", backend="wrapped")
    path = write_bundle(
        tmp_path / "b",
        model=ModelFactory("tests.test_registry:classifier", model.model),
        signature=model.signature,
        settings=settings,
    )

    predictor = nograd.load(str(path), trusted=True)

    assert (predictor.backend.name, wrap_module(found, model, LoadOptions(lanes=2)).lanes) == ("wrapped", 2)
    rows = np.ones((3, 8), np.float32)
    torch.testing.assert_close(torch.from_numpy(predictor.predict(rows)), Classifier()(torch.from_numpy(rows)).detach())
    with pytest.raises(ConfigError, match="lanes is 2; wrapped runs one batch at a time"):
        BundleSettings(name="c", backend="wrapped", lanes=2)


def test_a_bundle_of_nograds_own_backends_names_no_package(tmp_path: Path) -> None:
    model = reference()
    path = write_bundle(
        tmp_path / "b", model=ModelFactory("tests.test_registry:classifier", model.model), signature=model.signature,
        settings=BundleSettings(name="c", backend="eager"),
    )  # fmt: skip

    assert b'"distribution"' not in (path / "bundle.json").read_bytes()


def test_a_suffix_of_an_installed_package_is_in_the_list_of_what_can_be_opened(site: Path) -> None:
    install_plain(site)

    with pytest.raises(ConfigError, match=r"its name must end in \.onnx, \.xml, \.pt, \.pt2, \.plain$"):
        open_file(Path("model.bin"))
