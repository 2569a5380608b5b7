"""`--dry-run` of predict and tune: what would be done is printed, and nothing is built or written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nograd import Predictor
from nograd.core.parity import HALF, INT8
from nograd.datasets.columns import ColumnOptions
from nograd.datasets.preview import preview
from nograd.datasets.run import PredictJob
from nograd.errors import ConfigError, UnsupportedError
from nograd.tuning.command import print_preview
from nograd.tuning.preview import preview as preview_tuning
from nograd.tuning.tuner import TuneSettings
from nograd.tuning.values import Goal

FEW = pytest.mark.filterwarnings("ignore:2 rows of .* too few to compare answers reliably")


@pytest.fixture(scope="module")
def predictor() -> Any:
    """Linear(4, 3): input `input` float32 [rows, 4]."""
    torch.manual_seed(0)
    found = Predictor(torch.nn.Linear(4, 3), device="cpu", sample=torch.randn(2, 4))
    yield found
    found.close()


def rows(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


GOOD = {"input": [1, 2, 3, 4], "id": 7}


def test_predict_describes_columns_and_bad_rows_and_writes_nothing(tmp_path: Path, predictor: Predictor) -> None:
    source = rows(tmp_path / "in.jsonl", GOOD, {"input": [1, 2], "id": 8}, {"id": 9}, GOOD)

    found = preview(PredictJob("m", str(source), tmp_path / "out.jsonl"), lambda: predictor)

    assert str(found).splitlines() == [
        f"input   {source}: the first 4 lines were read, 2 of them bad",
        "  line 2: input 'input' is float32 [1, 2]; the model takes float32 [rows, 4]",
        "  line 3: it has no 'input'",
        "  input  float32 [rows, 4]  from column 'input'",
        f"output  {tmp_path / 'out.jsonl'}: jsonl",
        "  id  carried through",
        "  output  float32 [rows, 3]  predicted",
        f"would write {tmp_path / 'out.jsonl'}; nothing was written",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_predict_applies_the_column_options(tmp_path: Path, predictor: Predictor) -> None:
    source = rows(tmp_path / "in.jsonl", {"features": [1, 2, 3, 4], "id": 1, "note": "n"})
    columns = ColumnOptions({"input": "features"}, None, ("note",))

    found = preview(PredictJob("m", str(source), tmp_path / "out.csv", columns), lambda: predictor)

    assert [(spec.name, column) for spec, column in found.sources] == [("input", "features")]
    assert (found.carried, found.kind, found.faults) == (("id",), "csv", ())


def test_predict_refuses_what_the_run_would_refuse(tmp_path: Path, predictor: Predictor) -> None:
    source = rows(tmp_path / "in.jsonl", {"a": 1, "b": 2})
    job = PredictJob("m", str(source), tmp_path / "out.jsonl")

    with pytest.raises(ConfigError, match="input 'input' has no column"):
        preview(job, lambda: predictor)
    with pytest.raises(ConfigError, match=r"the folder .* does not exist"):
        preview(replace(job, output=tmp_path / "none" / "out.jsonl"), lambda: predictor)
    with pytest.raises(ConfigError, match=r"the name must end in \.jsonl"):
        preview(replace(job, output=tmp_path / "out.xml"), lambda: predictor)


@pytest.mark.parametrize(
    ("restart", "said"),
    [(False, "it exists, so the run resumes it if"), (True, "and replace the existing file")],
)
def test_predict_says_what_becomes_of_an_existing_output(
    tmp_path: Path, predictor: Predictor, restart: bool, said: str
) -> None:
    source, output = rows(tmp_path / "in.jsonl", GOOD), tmp_path / "out.jsonl"
    output.write_text("mine")

    found = preview(PredictJob("m", str(source), output, restart=restart), lambda: predictor)

    assert said in str(found)
    assert output.read_text() == "mine"


def settings(**values: Any) -> TuneSettings:
    return TuneSettings(Goal.parse("latency"), HALF, "half", **{"budget_s": 60.0, "cores": 1, **values})


@FEW
def test_tune_lists_candidates_and_refused_ones_with_reasons_and_builds_nothing(tmp_path: Path, predictor: Predictor) -> None:
    found = preview_tuning(predictor, None, tmp_path / "m.bundle", settings(backends=("onnx", "aot")))

    assert {each.backend for each in found.tried} == {"eager", "onnx", "aot"}
    assert found.tried[0].candidate().variant == "eager"
    assert all(each.why_not for each in found.refused)
    text = str(found)
    assert "onnx int8-dynamic  8-bit integers do not reach a cosine of 0.999; --tolerance int8 allows" in text
    assert "about 60 s to build, skipped without a larger --budget" in text
    assert "would take about 60 s (--budget), of which 30 s for building" in text
    assert [*tmp_path.iterdir()] == []


@FEW
def test_tune_tries_what_the_tolerance_and_the_budget_allow(tmp_path: Path, predictor: Predictor) -> None:
    wanted = replace(settings(backends=("onnx", "aot"), budget_s=600.0), tolerance=INT8, tolerance_text="int8")

    found = preview_tuning(predictor, None, tmp_path / "m.bundle", wanted)

    assert "int8-dynamic" in {each.precision for each in found.tried}
    assert "about 60 s to build" in str(found)
    assert "skipped" not in str(found)


@FEW
def test_tune_refuses_what_the_run_would_refuse(tmp_path: Path, predictor: Predictor) -> None:
    with pytest.raises(ConfigError, match="backends contains 'nothing'"):
        preview_tuning(predictor, [torch.zeros(4)] * 2, tmp_path / "m.bundle", settings(backends=("nothing",)))
    with pytest.raises(ConfigError, match="does not exist"):
        print_preview("a model that is not loaded", None, tmp_path / "none" / "m.bundle", settings())


def test_tune_starts_from_a_torch_module(tmp_path: Path) -> None:
    from tests.fakes import doubling

    with pytest.raises(UnsupportedError, match="tuning starts from a torch module"):
        preview_tuning(Predictor(doubling()), None, tmp_path / "m.bundle", settings())
