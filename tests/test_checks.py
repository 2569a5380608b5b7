"""`nograd.check` and the command: what they take, what they refuse, and what they need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

import nograd
from nograd import Predictor, Signature, TensorSpec
from nograd.checks.arrays import changed, difference, lively, padded, resized, tiled, varied
from nograd.checks.registry import EVERY
from nograd.checks.resources import available_bytes, format_bytes, resident_bytes
from nograd.core.tensors import Array
from nograd.errors import ConfigError, SignatureError
from tests.broken_models import sound
from tests.fakes import doubling
from tests.test_cli import nograd as command
from tests.waiting import HANG_S

DOCS = Path(__file__).parent.parent / "docs" / "checks.md"


def test_a_module_is_checked_with_a_sample() -> None:
    report = nograd.check(nn.Linear(4, 3).eval(), torch.randn(2, 4), only=["mode"])

    assert (report.target, report.worst) == ("Linear", "passed")
    assert {finding.family for finding in report.findings} == {"mode"}


def test_a_backend_is_checked_as_it_is() -> None:
    report = nograd.check(doubling(), only="batching")

    assert {f.check for f in report.of("passed")} >= {"batching.rows", "batching.cap"}
    assert {f.evidence for f in report.of("skipped")} >= {"backend 'fake' has no eager torch module to examine"}


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"model": nn.Linear(4, 3)}, ConfigError, "sample is None; a module is checked with inputs that it can run"),
        ({"model": nn.Linear(4, 3), "sample": torch.zeros(2, 5)}, SignatureError, "the model cannot run"),
        ({"model": sound(), "sample": torch.zeros(2, 8)}, ConfigError, "a Predictor has its own sample"),
        ({"model": sound(), "only": ["speed"]}, ConfigError, "only is 'speed'; families are mode, gradients"),
        ({"model": sound(), "max_batch_size": 0}, ConfigError, "max_batch_size is 0; it must be at least 1"),
    ],
    ids=["no sample", "a wrong sample", "two samples", "no such family", "no rows"],
)  # fmt: skip
def test_what_cannot_be_checked_is_one_sentence(options: dict[str, object], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        nograd.check(**options)  # type: ignore[arg-type]


def test_the_page_on_checks_lists_each_with_its_worst_severity_and_its_remedy() -> None:
    text = DOCS.read_text("utf-8")

    for each in EVERY:
        assert f"### `{each.id}`" in text, each.id
        assert f"`{each.remedy}`" in text, each.id
    assert text.count("### `") == len(EVERY)
    assert text == page()


def page() -> str:
    """The page, as it must be; `python -m tests.test_checks` writes it."""
    head = DOCS.read_text("utf-8").partition("<!-- checks -->")[0]
    lines = [f"{head}<!-- checks -->"]
    family = ""
    for each in sorted(EVERY, key=lambda check: nograd.checks.FAMILIES.index(check.family)):
        if each.family != family:
            family = each.family
            lines += ["", f"## {family}"]
        deep = " Only with `--deep`." if each.is_deep else ""
        worst = f"Maximum severity: {each.worst}."
        lines += [
            "",
            f"### `{each.id}`",
            "",
            f"{each.title}. Method: {each.done}. {worst}{deep}",
            "",
            f"Fix: `{each.remedy}`",
        ]
    return "\n".join(lines) + "\n"


# -- the command


@pytest.mark.parametrize(
    ("options", "code"),
    [([], 0), (["--strict"], 0), (["--memory", "1MB", "--only", "memory"], 1)],
    ids=["", "strict", "error"],
)
def test_the_command_exits_with_the_worst_severity(options: list[str], code: int) -> None:
    ended = command("check", "served_models:dense", "--only", "batching", *options)

    assert (ended.returncode, ended.stderr) == (code, "checking served_models:dense\n")
    assert ended.stdout.startswith("served_models:dense: ")


def test_the_command_writes_a_file_in_a_format(tmp_path: Path) -> None:
    file = tmp_path / "found.sarif"

    ended = command("check", "served_models:tiny", "--only", "mode", "--format", "sarif", "-o", str(file))

    assert (ended.returncode, ended.stdout) == (0, "")
    assert json.loads(file.read_text())["version"] == "2.1.0"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "nograd: there is no model 'nothing'"),
        (["http://127.0.0.1:9"], "nograd: nothing answers at http://127.0.0.1:9"),
        (["served_models:tiny", "--format", "xml"], "nograd: format is 'xml'"),
        (["served_models:tiny", "--only", "speed"], "nograd: only is 'speed'"),
    ],
)
def test_a_target_that_cannot_be_loaded_exits_with_2(arguments: list[str], said: str) -> None:
    ended = command("check", *arguments)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines()[-1].startswith(said)


WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())

from nograd import check
report = check(sys.argv[1])
print(sorted(finding.check for finding in report.of("error", "warning")), len(report.of("passed")) > 12)
"""


def test_an_onnx_file_is_checked_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    path = tmp_path / "model.onnx"
    nograd.export_to_onnx(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval(), torch.randn(4, 8), path)

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(path)], capture_output=True, text=True, timeout=HANG_S, check=False
    )

    assert (done.stdout, done.returncode) == ("[] True\n", 0), done.stderr


def test_checks_need_no_torch_to_be_imported() -> None:
    code = "import sys, nograd.checks.registry, nograd.report.finding_formats; assert 'torch' not in sys.modules"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=False)

    assert (done.returncode, done.stderr) == (0, "")


# -- what checks are made of

IDS = TensorSpec("ids", "int64", ("tokens",), 7)
MASK = TensorSpec("mask", "int64", ("tokens",), 0)
BATCH = {"ids": np.array([[1, 2, 3]]), "mask": np.array([[1, 1, 0]])}


def test_rows_are_bent_as_their_names_say() -> None:
    assert resized(BATCH, (IDS, MASK), "tokens", 5)["ids"].tolist() == [[1, 2, 3, 1, 2]]
    assert resized(BATCH, (IDS, MASK), "tokens", 2)["mask"].tolist() == [[1, 1]]
    assert padded(BATCH, (IDS, MASK), "tokens", 4)["ids"].tolist() == [[1, 2, 3, 7]]
    assert padded(BATCH, (IDS, MASK), "tokens", 4)["mask"].tolist() == [[1, 1, 0, 0]]
    assert varied(BATCH, 3)["ids"].tolist() == [[1, 2, 3], [3, 1, 2], [2, 3, 1]]
    assert tiled(varied(BATCH, 2), 3)["ids"].tolist() == [[1, 2, 3], [3, 1, 2], [1, 2, 3]]
    assert changed(BATCH)["ids"].tolist() == [[0, 1, 2]]
    assert changed({"x": np.array([[1.0]], np.float32), "flag": np.array([[True]])})["x"].tolist() == [[4.0]]


def test_zeros_that_nobody_sent_become_other_values_within_their_limits() -> None:
    ids = TensorSpec("ids", "int64", ("tokens",), limits=(0, 9))
    zeros = {"ids": np.zeros((1, 1), np.int64), "mask": np.zeros((1, 1), np.int64)}

    found = lively(zeros, Signature((ids, MASK), max_sizes={"tokens": 3}))

    assert found["ids"].shape == found["mask"].shape == (1, 3)
    assert found["ids"].any()
    assert 0 <= found["ids"].min() <= found["ids"].max() <= 9
    assert found["mask"].all()
    assert lively(BATCH, Signature((IDS, MASK))) == BATCH


@given(hnp.arrays(np.float32, (3, 2), elements=st.floats(-100, 100, width=32)))
def test_nothing_differs_from_itself(answers: Array) -> None:
    assert difference({"y": answers}, {"y": answers.copy()}) == 0


@pytest.mark.parametrize(
    ("expected", "given_", "found"),
    [
        ([2.0, -4.0], [2.0, -3.0], 0.25),
        ([1.0], [1.0, 2.0], np.inf),
        ([1.0, np.nan], [1.0, np.nan], 0.0),
        ([1.0, np.nan], [1.0, 2.0], np.inf),
        ([0.0], [0.1], np.inf),
        ([1, 2], [1, 3], 1.0),
        ([True], [False], 1.0),
    ],
)
def test_a_difference_is_relative_to_the_largest_value(expected: list[float], given_: list[float], found: float) -> None:
    assert difference({"y": np.array(expected)}, {"y": np.array(given_)}) == found


def test_memory_is_that_of_the_container(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")

    assert available_bytes(tmp_path) == 600


def test_without_a_limit_memory_is_that_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")

    assert available_bytes(tmp_path) > 1e6
    assert available_bytes(tmp_path, tmp_path) == 0
    assert resident_bytes() > 1e6
    assert resident_bytes(tmp_path) == 0


def test_bytes_are_told_in_three_digits() -> None:
    assert [format_bytes(n) for n in (0, 999, 1500, 2_424_000, 3e9)] == ["0 bytes", "999 bytes", "1.5 KB", "2.42 MB", "3 GB"]


def test_a_predictor_is_left_as_it_was() -> None:
    predictor = sound()
    x = torch.randn(3, 8)
    before = predictor.predict(x)

    nograd.check(predictor)

    assert isinstance(predictor, Predictor)
    assert torch.equal(predictor.predict(x), before)


if __name__ == "__main__":
    DOCS.write_text(page(), "utf-8")
