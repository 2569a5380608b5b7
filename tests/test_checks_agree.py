"""`check` and the probe use the same trials: neither finds what the other missed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import nograd
from tests.probing_zoo import IDS, NUMBERS, ids, numbers
from tests.torch_models import Returns

MODELS = {
    **{f"numbers: {name}": (zoo, numbers("zeros")) for name, zoo in NUMBERS.items()},
    **{f"ids: {name}": (zoo, ids("zeros")) for name, zoo in IDS.items()},
}


@pytest.mark.parametrize("name", MODELS)
def test_the_checklist_finds_no_wrong_answer_that_the_probe_missed(name: str) -> None:
    zoo, sample = MODELS[name]
    torch.manual_seed(0)

    report = nograd.check(zoo.make(), sample, only=["batching"])

    by_check = {finding.check: finding for finding in report.findings}
    assert zoo.verdict == "alone" or not report.of("error"), by_check
    assert by_check["batching.rows"].severity == ("warning" if zoo.verdict == "alone" else "passed")


def test_rows_whose_answers_depend_on_their_number_are_not_called_coupled() -> None:
    def by_count(x: Tensor) -> Tensor:
        return x * (1.01 if len(x) > 4 else 1.0)

    report = nograd.check(Returns(by_count), torch.rand(4, 6), only=["batching"])

    finding = next(finding for finding in report.findings if finding.check == "batching.rows")
    assert finding.severity == "warning"
    assert finding.evidence.startswith("a row's answer differs by 1.0% of its largest value between batches of 1 and 5 rows")
