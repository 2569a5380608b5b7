"""A bundle is there whole, or what was there before; nothing else is ever overwritten."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nograd.backends.registry import runtimes
from nograd.bundle import (
    Bundle,
    BundleSettings,
    Curve,
    ExportedFile,
    ModelFactory,
    ModelFolder,
    Pipeline,
    check_target,
    write_bundle,
)
from nograd.bundle.manifest import MANIFEST, loads
from nograd.bundle.pipeline import read_example
from nograd.errors import ConfigError
from nograd.runtime.machine import this_machine
from tests.bundles import CURVE, ROWS, TEXTS, linear_onnx, listed, rows, settings, write_rows


class CrashError(Exception):
    pass


def crash(*_: object, **__: object) -> None:
    raise CrashError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["bundle", "bundle.zip"])
def test_a_new_bundle_replaces_an_old_one_and_leaves_nothing_beside(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / name, goal="latency")
    write_rows(tmp_path / name, goal="throughput")

    with Bundle.read(tmp_path / name) as bundle:
        assert bundle.settings.goal == "throughput"
    assert listed(tmp_path) == [name]


STEPS = ["write_source", "write_sums", "dumps", "verify_files", "_flush", "_move_in"]


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_leaves_the_old_bundle_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = write_rows(tmp_path / "bundle", goal="old")
    before = contents(path)
    monkeypatch.setattr(f"nograd.bundle.writing.{step}", crash)

    with pytest.raises(CrashError):
        write_rows(path, goal="new")

    assert contents(path) == before
    assert [found for found in listed(tmp_path) if found.startswith(".")] == []
    Bundle.read(path).close()


def test_a_rename_that_fails_puts_the_old_bundle_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "bundle", goal="old")
    before, rename = contents(path), Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "bundle" and self.parent.name.startswith(".nograd-"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="No space left"):
        write_rows(path, goal="new")

    assert contents(path) == before


def test_a_crash_while_a_zip_is_packed_leaves_the_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "bundle.zip")
    before = path.read_bytes()
    monkeypatch.setattr("nograd.bundle.archive.shutil.copyfileobj", crash)

    with pytest.raises(CrashError):
        write_rows(path)

    assert path.read_bytes() == before


def test_a_folder_with_something_else_in_it_is_never_touched(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")

    for refused in (check_target, write_rows):
        with pytest.raises(
            ConfigError, match="is a folder with something else than a bundle in it; choose another, or empty it"
        ):
            refused(folder)
    assert contents(folder) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize("name", ["file", "other.zip"])
def test_a_file_that_is_no_bundle_is_never_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")

    with pytest.raises(ConfigError, match="exists and is not a bundle; choose another name, or remove it"):
        write_rows(tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"precious"


def test_a_folder_that_is_not_there_is_named_and_an_empty_one_is_filled(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"the folder {tmp_path / 'no'} does not exist"):
        check_target(tmp_path / "no" / "bundle")
    (tmp_path / "empty").mkdir()
    Bundle.read(write_rows(tmp_path / "empty")).close()


def test_a_link_to_a_bundle_stays_one(tmp_path: Path) -> None:
    real = write_rows(tmp_path / "real", goal="old")
    (tmp_path / "current").symlink_to(real)

    write_rows(tmp_path / "current", goal="new")

    assert (tmp_path / "current").is_symlink()
    with Bundle.read(real) as bundle:
        assert bundle.settings.goal == "new"


def test_all_files_may_be_read_by_whom_the_first_may(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "bundle")

    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir() if file.name != "SHA256SUMS"}
    assert modes == {stat.S_IMODE((path / MANIFEST).stat().st_mode)}


def test_the_manifest_is_json_that_people_read_and_says_where_and_when(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "bundle", lanes=2, parity={"passed": True})

    plain = json.loads((path / MANIFEST).read_text())
    assert plain["format"] == 1
    assert plain["settings"]["lanes"] == 2
    assert plain["settings"]["parity"] == {"passed": True}
    assert len(plain["settings"]["when"]) == len("2026-11-25 19:30")
    with Bundle.read(path) as bundle:
        assert bundle.settings.machine == this_machine(runtimes=runtimes())
        assert bundle.settings.curve == CURVE
        assert bundle.signature == ROWS


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backend": "tensorrt"}, "backend is 'tensorrt'; it must be one of eager, onnx, openvino, torchscript, aot, compiled"),
        ({"lanes": 0}, "lanes is 0; it must be at least 1"),
        ({"num_threads": 0}, "num_threads is 0; it must be at least 1"),
        ({"max_batch_size": 0}, "max_batch_size is 0; it must be at least 1"),
        (
            {"backend": "eager", "precision": "int8-dynamic"},
            "precision is 'int8-dynamic'; eager runs float32, bfloat16, float16",
        ),
        ({"backend": "compiled", "lanes": 2}, "lanes is 2; compiled runs one batch at a time"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(**changes)

    assert str(caught.value) == said


def test_a_curve_needs_a_time_for_each_size() -> None:
    with pytest.raises(ConfigError, match="a curve has 2 sizes; it needs as many seconds"):
        Curve((1, 2), (0.1,), (0.1,), (0.1,))
    with pytest.raises(ConfigError, match="finite and above 0 s"):
        Curve((1,), (float("nan"),), (0.1,), (0.1,))
    assert Curve((1, 2), (0.3, 0.1), (0.1, 0.1), (0.4, 0.4)).cost().seconds == (0.2, 0.2)


def attempt(tmp_path: Path, **changes: Any) -> str:
    """What is said of a bundle that cannot be; nothing is written."""
    given = {"model": ExportedFile(tmp_path / "linear.onnx"), "signature": ROWS, "settings": settings(), **changes}
    linear_onnx(tmp_path / "linear.onnx")
    with pytest.raises(ConfigError) as caught:
        write_bundle(tmp_path / "bundle", **given)
    assert listed(tmp_path) == ["linear.onnx"]
    return str(caught.value)


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    eager = BundleSettings(name="m", backend="eager")
    assert "the curve counts rows; this model's must count tokens" in attempt(tmp_path, signature=TEXTS)
    assert "needs a ModelFolder or a ModelFactory, not an exported file" in attempt(tmp_path, settings=eager)
    assert "needs an ExportedFile that ends in .xml" in attempt(tmp_path, settings=settings(backend="openvino"))
    assert "needs an ExportedFile that ends in .onnx" in attempt(tmp_path, model=ModelFactory("m:f", None))  # type: ignore[arg-type]
    assert "there is no file" in attempt(tmp_path, model=ExportedFile(tmp_path / "other.onnx"))
    folder = attempt(tmp_path, model=ModelFolder(tmp_path), settings=eager)
    assert "is not a transformers folder with config.json and safetensors; save the model with save_pretrained" in folder
    assert "the report is named 'x.html'; it must be report.json or report.html" in attempt(tmp_path, reports={"x.html": b""})


def test_a_preprocess_without_a_name_is_refused_before_and_when_it_is_written(tmp_path: Path) -> None:
    front = Pipeline(preprocess=lambda item: item)

    assert "preprocess is a lambda" in attempt(tmp_path, front=front)
    with pytest.raises(ConfigError, match="preprocess is a lambda"):
        front.check()
    with pytest.raises(ConfigError, match="postprocess is a lambda"):
        Pipeline(postprocess=lambda answer: answer).check()


def test_an_example_that_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    assert "the example is object; a bundle can contain text, bytes, numbers" in attempt(
        tmp_path, front=Pipeline(example=object())
    )


@pytest.mark.parametrize(
    "example",
    ["a text", 3, 0.1, [1, 2, [3.5]], {"a": [1], "b": "x"}, None, b"\xff\x00", np.arange(6.0).reshape(2, 3)],
    ids=["text", "integer", "float", "list", "dict", "none", "bytes", "array"],
)
def test_an_example_comes_back_as_it_was(tmp_path: Path, example: Any) -> None:
    path = tmp_path / "bundle"
    write_bundle(
        path,
        model=ExportedFile(linear_onnx(tmp_path / "l.onnx")),
        signature=ROWS,
        settings=settings(),
        front=Pipeline(example=example),
    )

    found = read_example(loads((path / MANIFEST).read_bytes(), "here"), path)
    assert type(found) is type(example)
    assert found == example if not isinstance(example, np.ndarray) else np.array_equal(found, example)


def test_a_row_by_name_comes_back_bit_for_bit(tmp_path: Path) -> None:
    with Bundle.read(write_rows(tmp_path / "bundle")) as bundle:
        example = bundle.open().example

    np.testing.assert_array_equal(example["x"], rows()["x"])
