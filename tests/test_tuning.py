"""nograd.tune from beginning to end: real processes, exporters and bundles; small models, so that it takes seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nograd
from nograd.bundle import Bundle
from nograd.errors import ConfigError, UnsupportedError
from nograd.tuning import Tuned, tune
from nograd.tuning.values import TuneReport
from tests.onnx_operators import warm_up_exporter
from tests.torch_models import LastState, Returns
from tests.tuning_tasks import Classifier, Misbehaves

QUICK: dict[str, Any] = {"budget_s": 600.0, "rounds": 4}
"""As much time as it takes, and few rounds: what comes out depends on no clock, but for who wins."""

ROWS = torch.randn(24, 8, generator=torch.Generator().manual_seed(1))


def classifier() -> nograd.Predictor:
    """The factory of the bundles below."""
    return nograd.Predictor(Classifier(), sample=ROWS)


@pytest.fixture(scope="module", autouse=True)
def _short_measurements() -> Iterator[None]:
    """Shorten what each run measures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nograd.tuning.tuner.CONFIRM_S", 0.2)
        patch.setattr("nograd.tuning.measure.CURVE_ROUNDS", 2)
        yield


@pytest.fixture(scope="module")
def warm_exporter(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Warm the ONNX exporter up once: the candidates' processes are forks of this one."""
    warm_up_exporter(tmp_path_factory.mktemp("exporter"))


exports_to_onnx = pytest.mark.usefixtures("warm_exporter")


def statuses(report: TuneReport) -> dict[str, str]:
    return {str(row.candidate): row.status for row in report.rows}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, warm_exporter: None) -> Tuned:
    """The classifier tuned once, to a bundle."""
    return tune(Classifier(), ROWS, output=tmp_path_factory.mktemp("tuned") / "bundle", **QUICK, cores=2, backends=["onnx"])


def test_every_candidate_is_in_the_report_and_one_has_won(tuned: Tuned) -> None:
    report = tuned.report
    found = statuses(report)

    assert {"eager 1x2", "eager 1x1", "onnx 1x2", "onnx 1x1"} <= set(found)
    assert list(found.values()).count("winner") == 1
    assert found["onnx int8-dynamic 1x2"] == "not_tried"
    assert (report.model, report.goal, report.reference, report.data) == (
        "Classifier", "latency", "eager 1x2", "24 rows of the sample given",
    )  # fmt: skip
    assert set(report.spent_s) == {"probing", "building", "measuring", "curves", "confirming"}


def test_the_winner_was_raced_against_eager_and_has_a_curve(tuned: Tuned) -> None:
    winner = tuned.report.winner

    assert winner is not None
    assert winner.rounds == tuned.report.rounds == 4
    assert winner.ratio is not None
    assert [point.size for point in winner.curve] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    assert winner.parity is not None
    assert winner.parity["passed"]


def test_the_winner_served_all_that_came_under_load(tuned: Tuned) -> None:
    confirmation = tuned.report.confirmation

    assert confirmation is not None
    assert "failed" not in confirmation.reason
    assert confirmation.offered_per_s <= 2000


def test_the_bundle_answers_as_the_model_does_and_brings_its_curve(tuned: Tuned) -> None:
    assert tuned.bundle is not None
    with Bundle.read(tuned.bundle) as bundle:
        predictor = bundle.open()
        assert predictor.cost is not None
        assert predictor.cost.max_size == 32
        answer = predictor.predict(ROWS.numpy())
        settings = bundle.settings

    np.testing.assert_allclose(answer, Classifier()(ROWS).detach().numpy(), rtol=1e-5, atol=1e-6)
    assert (settings.name, settings.goal, settings.backend) == ("Classifier", "latency", "onnx")
    assert json.loads((tuned.bundle / "report.json").read_text())
    assert "<html" in (tuned.bundle / "report.html").read_text("utf-8")


def test_nothing_is_left_beside_the_bundle(tuned: Tuned) -> None:
    assert tuned.bundle is not None
    assert [path.name for path in tuned.bundle.parent.iterdir()] == ["bundle"]


def test_a_model_that_nobody_can_build_again_is_not_bundled_as_eager(tuned: Tuned) -> None:
    """Whoever was fastest, the bundle holds a file: nothing says how to make the module."""
    winner = tuned.report.winner

    assert winner is not None
    assert winner.candidate.backend == "onnx"


def test_with_a_factory_eager_may_win(tmp_path: Path) -> None:
    found = tune("tests.test_tuning:classifier", ROWS, output=tmp_path / "b.zip", **QUICK, cores=1, backends=["eager"])

    assert found.needs_trust
    assert (found.report.model, statuses(found.report)["eager 1x1"]) == ("classifier", "winner")
    with Bundle.read(tmp_path / "b.zip") as bundle:
        with pytest.raises(ConfigError, match="trusted"):
            bundle.open()
        answer = bundle.open(trusted=True).predict(ROWS)
    torch.testing.assert_close(answer, Classifier()(ROWS).detach())


def test_a_candidate_that_dies_is_a_row_with_its_reason() -> None:
    model = Misbehaves("raises")
    rows = ROWS[:4]
    with (
        pytest.warns(UserWarning, match="4 rows of the sample given: too few to compare answers reliably"),
        pytest.raises(UnsupportedError, match="eager itself cannot be measured: the model raised ValueError"),
    ):
        tune(model, rows, **QUICK, cores=1, backends=["eager"])


def test_an_export_that_is_refused_is_a_row_with_its_reason() -> None:
    found = tune(Returns(lambda x: x * float(x.sum() > 0)), ROWS, **QUICK, cores=1, backends=["torchscript"])
    row = next(row for row in found.report.rows if row.candidate.backend == "torchscript")

    assert row.status == "failed"
    assert "differ from the model's" in row.reason
    assert found.bundle is None


def test_answers_off_by_more_than_the_tolerance_are_refused_with_the_figures() -> None:
    found = tune(Classifier(), ROWS, tolerance="cosine=0.9999999", **QUICK, cores=1, backends=["eager"])
    row = next((row for row in found.report.rows if row.candidate.precision == "bfloat16"), None)

    assert row is not None
    assert row.status in ("refused", "not_tried")  # not tried on a processor without bfloat16
    assert row.reason


@exports_to_onnx
def test_the_users_metric_judges_instead_of_the_tolerance(tmp_path: Path) -> None:
    labels = Classifier()(ROWS).argmax(1).numpy()
    np.savez(tmp_path / "rows.npz", x=ROWS.numpy(), label=labels)

    def accuracy(answers: list[Any], records: list[dict[str, Any]]) -> float:
        return float(np.mean([np.argmax(answer) == record["label"] for answer, record in zip(answers, records, strict=True)]))

    found = tune(
        nograd.Predictor(Classifier(), sample=ROWS), tmp_path / "rows.npz", metric=accuracy, **QUICK, cores=1,
        backends=["onnx"], accept_coupled_rows=True,
    )  # fmt: skip
    quantized = next(row for row in found.report.rows if row.candidate.precision == "int8-dynamic")

    assert (found.report.model, found.report.reference_metric) == ("Classifier", 1.0)
    assert quantized.metric is not None
    assert (quantized.status == "refused") == (quantized.metric < 1.0)
    assert quantized.independence is not None
    assert quantized.independence.verdict == "coupled, accepted"


@exports_to_onnx
def test_a_candidate_whose_rows_influence_each_other_is_refused_with_the_bound() -> None:
    found = tune(
        nograd.Predictor(Classifier(), sample=ROWS), ROWS, tolerance="cosine=0.5", **QUICK, cores=1, backends=["onnx"]
    )  # fmt: skip
    rows = {str(row.candidate): row for row in found.report.rows}
    quantized, floating = rows["onnx int8-dynamic 1x1"], rows["onnx 1x1"]

    assert quantized.status == "refused"
    assert quantized.reason.startswith("a row's answer depends on the other rows of its batch: it moves by ")
    assert quantized.reason.endswith("1.0e-05 is allowed; --accept-coupled-rows accepts it")
    assert floating.independence is not None
    assert floating.independence.verdict == "independent"
    assert floating.independence.backend == "onnx"


def test_lengths_give_a_curve_over_padded_tokens() -> None:
    found = tune(LastState(), torch.randn(8, 6, 4), goal="throughput", **QUICK, cores=1, backends=["eager"])
    winner = found.report.winner

    assert winner is not None
    assert winner.curve_unit == "tokens"
    assert [point.size for point in winner.curve] == [6, 12, 24, 48, 96, 192]


class Nothing(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.linear(x) * float("nan")
        return found


class Drops(Nothing):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.linear(torch.nn.functional.dropout(x, 0.5))
        return found


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Nothing, r"the model answers the sample with NaN \(output 'output'\)"),
        (Drops, "the model answered the same rows differently a second time .* or draws random numbers"),
    ],
)
def test_a_model_that_nothing_can_be_compared_with_is_refused_and_leaves_nothing(
    module: type[torch.nn.Module], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=said):
        tune(module(), ROWS, output=tmp_path / "b", **QUICK, cores=1, backends=["eager"])

    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*invalid value")
def test_a_metric_that_is_no_number_is_an_error_of_the_candidate(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="the metric is nan; it must be a finite number, higher for better answers"):
        tune(Classifier(), ROWS, metric=lambda answers, records: float("nan"), **QUICK, cores=1, backends=["eager"])


@exports_to_onnx
def test_for_memory_it_is_memory_that_is_compared_and_a_faster_one_does_not_win_by_that(tmp_path: Path) -> None:
    found = tune(Classifier(), ROWS, goal="memory", **QUICK, cores=1, backends=["onnx", "torchscript"])
    winner = found.report.winner
    held = {str(row.candidate): row.rss_bytes for row in found.report.rows if row.rss_bytes}

    assert winner is not None
    assert winner.rss_bytes == min(held.values())
    assert {"onnx 1x1", "torchscript 1x1"} >= set(held) >= {"onnx 1x1"}
    assert "the least of those that are not slower than eager by more than a tenth" in " ".join(str(found).split())


def test_a_time_that_nobody_answers_in_is_told_and_not_confirmed() -> None:
    found = tune(Classifier(), ROWS, goal="slo=0.001ms", **QUICK, cores=1, backends=["eager"])
    confirmation = found.report.confirmation

    assert confirmation is not None
    assert not confirmation.confirmed
    assert "the goal is 0.001 ms" in confirmation.reason
    assert any("nothing answers even a row alone within 0.001 ms" in note for note in found.report.notes)
    assert "not confirmed under load" in str(found)


def interrupted_at(phase: str) -> Callable[[str, str], None]:
    def tell(now: str, text: str) -> None:
        if now == phase:
            raise KeyboardInterrupt

    return tell


@exports_to_onnx
def test_interrupted_while_measuring_the_best_so_far_is_written_and_the_same_call_goes_on(tmp_path: Path) -> None:
    def go(tell: Callable[[str, str], None] | None = None) -> Tuned:
        return tune(Classifier(), ROWS, output=tmp_path / "b", **QUICK, cores=1, backends=["onnx"], tell=tell)

    first = go(interrupted_at("measuring"))
    state = json.loads((tmp_path / "b.tuning" / "state.json").read_text())
    second = go()

    assert "it was interrupted" in first.report.notes[0]
    assert first.bundle == tmp_path / "b"
    assert len(state["race"]["events"]) == 1
    built = {str(row.candidate): row.build_s for row in first.report.rows}
    again = {str(row.candidate): row.build_s for row in second.report.rows}
    assert again["onnx 1x1"] == built["onnx 1x1"]  # the very same build
    assert not (tmp_path / "b.tuning").exists()


def test_interrupted_before_anything_was_measured_nothing_is_written(tmp_path: Path) -> None:
    found = tune(Classifier(), ROWS, output=tmp_path / "b", **QUICK, cores=1, tell=interrupted_at("building"))

    assert (found.bundle, found.report.winner) == (None, None)
    assert "measured" not in statuses(found.report).values()
    assert not (tmp_path / "b").exists()
    assert "there is no result" in found.report.notes[0]


@exports_to_onnx
@pytest.mark.parametrize("phase", ["curves", "confirming"])
def test_interrupted_late_the_winner_is_written_and_the_report_says_so(tmp_path: Path, phase: str) -> None:
    found = tune(Classifier(), ROWS, output=tmp_path / "b", **QUICK, cores=1, backends=["onnx"], tell=interrupted_at(phase))

    assert found.bundle == tmp_path / "b"
    assert found.report.notes[0] == "it was interrupted: the winner is the best so far; the same command resumes"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"goal": "fast"}, "the goal is 'fast'"),
        ({"budget_s": 1.0}, "the budget is 1 s; it must be 5 s or more"),
        ({"tolerance": "loose"}, "the tolerance is 'loose'"),
        ({"metric_drop": -1.0}, "metric_drop is -1.0; it must be 0 or more"),
        ({"memory_bytes": 0}, "the memory is 0 bytes; it must be above 0"),
        ({"cores": 0}, "cores is 0; this process may use 1 to "),
        ({"cores": 1000}, "cores is 1000; this process may use 1 to "),
        ({"backends": ["tensorrt"]}, "backends contains 'tensorrt'; it must contain some of eager, onnx"),
    ],
)
def test_a_setting_out_of_its_range_is_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        tune(Classifier(), ROWS, **options)


def test_a_target_that_holds_something_else_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("")

    with pytest.raises(ConfigError, match="is a folder with something else than a bundle in it"):
        tune(Classifier(), ROWS, output=tmp_path / "b")


@pytest.mark.parametrize(("data", "said"), [("rows.pkl", "the name must end in"), ("nosuch.npy", "the file does not exist")])
def test_the_name_of_the_data_is_checked_before_the_model_is_loaded(data: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tune("nosuch.module:factory", Path(data))


def test_a_preprocess_without_a_name_is_told_before_any_work(tmp_path: Path) -> None:
    predictor = nograd.Predictor(Classifier(), sample=[[0.0] * 8] * 2, preprocess=lambda row: np.array(row, np.float32))

    with pytest.raises(ConfigError, match="preprocess"):
        tune(predictor, output=tmp_path / "b")


def test_a_model_that_is_no_torch_module_is_told(tmp_path: Path) -> None:
    nograd.export_to_onnx(Classifier(), ROWS, tmp_path / "m.onnx")

    with pytest.raises(UnsupportedError, match="the model runs on 'onnx'; tuning starts from a torch module"):
        tune(nograd.ONNXPredictor(tmp_path / "m.onnx"), ROWS.numpy())
