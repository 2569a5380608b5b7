"""What is known of a candidate, and what follows from it: the work that measures it for a goal, and the report's row."""

from __future__ import annotations

import torch

from nograd.core.parity import EXACT, HALF, INT8
from nograd.tuning.candidates import Variant, layouts, simplicity, variants
from nograd.tuning.entries import CandidateEntry, work_of
from nograd.tuning.values import Candidate, Goal


def entry(by_rows: dict[int, float], lone_s: float = 0.01, lanes: int = 1) -> CandidateEntry:
    found = CandidateEntry(Candidate("onnx", lanes=lanes))
    found.lone_s = [lone_s]
    found.by_rows = {rows: [seconds] for rows, seconds in by_rows.items()}
    return found


def test_the_best_batch_is_the_smallest_within_one_percent_of_the_highest_rate() -> None:
    assert entry({1: 0.010, 8: 0.00501, 16: 0.0050, 32: 0.006}).best_rows() == 8


def test_for_an_objective_the_batch_is_one_whose_wait_and_run_fit_in() -> None:
    # 2 rows take 8 ms: who waits for the run before is in time, too. 4 rows take 14 ms, and 43 % of them are in time
    assert entry({1: 0.005, 2: 0.004, 4: 0.0035}).rows_within(0.020) == 2


def test_lanes_share_the_machine_so_that_a_run_takes_as_many_times_longer() -> None:
    assert entry({1: 0.005, 2: 0.004}, lanes=2).rows_within(0.020) == 1


def test_an_objective_that_not_even_one_row_meets_has_no_batch() -> None:
    assert entry({1: 0.05}, lone_s=0.05).rows_within(0.020) is None


def test_every_goal_has_its_own_work() -> None:
    found = entry({1: 0.005, 2: 0.004, 4: 0.0035})

    assert work_of(found, Goal("latency")) == ("single", {})
    assert work_of(found, Goal("memory")) == ("single", {})
    assert work_of(found, Goal("throughput")) == ("bulk", {"rows": 4})
    assert work_of(found, Goal("slo", 0.020)) == ("bulk", {"rows": 2})
    assert work_of(found, Goal("slo", 0.001)) == ("single", {})


def test_a_row_tells_the_rate_of_the_best_batch() -> None:
    row = entry({1: 0.010, 8: 0.005}).row()

    assert (row.batch_rows, row.rows_per_s and row.rows_per_s.median, row.lone_s and row.lone_s.median) == (8, 200.0, 0.01)
    assert row.lone_p99_s is None  # of fewer than 20 runs there is no telling


def test_a_candidate_that_was_never_measured_has_a_row_without_figures() -> None:
    found = CandidateEntry(Candidate("aot"))
    found.end("not_tried", "no time")

    assert (found.row().status, found.row().reason, found.row().lone_s, found.row().batch_rows) == (
        "not_tried",
        "no time",
        None,
        None,
    )


def test_lone_rows_differ_in_threads_and_many_rows_in_lanes() -> None:
    onnx = Variant("onnx")

    assert layouts(onnx, Goal("latency"), 4) == [(1, 4), (1, 2), (1, 1)]
    assert layouts(onnx, Goal("throughput"), 4) == [(1, 4), (2, 2), (4, 1)]
    assert layouts(onnx, Goal("slo", 0.02), 6) == [(1, 6), (2, 3), (6, 1)]
    assert layouts(onnx, Goal("throughput"), 1) == [(1, 1)]
    assert layouts(Variant("aot"), Goal("throughput"), 4) == [(1, 4)]


def test_plainer_is_simpler_in_this_order_precision_backend_lanes_threads() -> None:
    ordered = [
        Candidate("eager", num_threads=1), Candidate("eager", num_threads=2), Candidate("eager", lanes=2), Candidate("onnx"),
        Candidate("compiled"), Candidate("eager", "bfloat16"), Candidate("onnx", "int8-dynamic"),
    ]  # fmt: skip

    assert sorted(ordered, key=simplicity) == ordered


def names(found: list[Variant]) -> list[str]:
    return [str(each.candidate()).removesuffix(" 1x1") for each in found if not each.why_not or "support" in each.why_not]


def test_the_models_operations_decide_how_it_is_quantized() -> None:
    dense = torch.nn.Sequential(torch.nn.Linear(8, 8))
    conv = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3))
    both = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Linear(64, 64))

    def kinds(model: torch.nn.Module) -> list[str]:
        return [each.precision for each in variants(model, INT8) if each.precision.startswith("int8")]

    assert (kinds(dense), kinds(conv), kinds(both)) == (["int8-dynamic"], ["int8-static"], ["int8-static", "int8-dynamic"])
    assert kinds(torch.nn.Sequential(torch.nn.Embedding(3, 3))) == []


def test_what_the_tolerance_rules_out_is_said_not_built() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    reasons = {each.precision: each.why_not for each in variants(model, HALF)}

    assert reasons["int8-dynamic"] == "8-bit integers do not reach a cosine of 0.999; --tolerance int8 allows 0.98"
    assert not {each.precision: each.why_not for each in variants(model, INT8)}["int8-dynamic"]
    assert not {each.precision: each.why_not for each in variants(model, EXACT, has_metric=True)}["int8-dynamic"]


def test_eager_comes_first_whatever_is_asked_for() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))

    assert [each.backend for each in variants(model, EXACT, backends=["openvino"]) if each.precision == "float32"] == [
        "eager", "openvino",
    ]  # fmt: skip
