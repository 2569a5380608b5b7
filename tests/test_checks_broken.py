"""`nograd check` finds the fault of each broken model, and nothing else; of sound ones it finds nothing."""

from __future__ import annotations

import pytest

from nograd import check
from nograd.checks import FAMILIES
from nograd.checks.registry import EVERY
from nograd.report.finding import Report
from nograd.transforms.int8 import saturates
from tests.broken_models import BROKEN, sound, sound_text

pytestmark = pytest.mark.usefixtures("small_heap")  # the check `memory.growth` collects garbage five times


def faults(report: Report) -> set[str]:
    return {finding.check for finding in report.of("error", "warning")}


def told_of_the_model(report: Report) -> set[str]:
    """Return the checks that found anything in the model; what is told of this processor must be, and is left out."""
    told = {finding.check for finding in report.of("error", "warning", "info")}
    of_the_processor = {"precision.saturation"} if saturates() else set[str]()
    assert told & {"precision.saturation"} == of_the_processor, str(report)
    return told - of_the_processor


@pytest.mark.parametrize("name", BROKEN)
def test_the_fault_of_a_broken_model_is_found_and_nothing_else(name: str) -> None:
    broken = BROKEN[name]

    report = check(broken.make())

    assert faults(report) == broken.expected, str(report)


@pytest.fixture(scope="module")
def of_sound() -> Report:
    """The report on the net without a fault."""
    return check(sound())


def test_nothing_is_found_in_a_sound_net(of_sound: Report) -> None:
    assert told_of_the_model(of_sound) == set(), str(of_sound)


def test_nothing_is_found_in_a_sound_model_of_text() -> None:
    report = check(sound_text())

    assert told_of_the_model(report) == set(), str(report)


def test_nothing_false_is_found_in_minilm() -> None:
    report = check("minilm", max_batch_size=8)

    assert told_of_the_model(report) <= {"gradients.graph"}, str(report)


def test_every_check_is_in_every_report_whether_it_could_be_run_or_not(of_sound: Report) -> None:
    assert sorted(finding.check for finding in of_sound.findings) == sorted(each.id for each in EVERY)
    assert len(EVERY) >= 24
    assert {each.family for each in EVERY} == set(FAMILIES)
    assert all(finding.evidence for finding in of_sound.findings)
    assert all(each.remedy and each.done and each.title for each in EVERY)
