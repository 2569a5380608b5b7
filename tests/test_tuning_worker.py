"""Candidates in processes of their own: what they answer, and how they end. The processes are real."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nograd.core.parity import EXACT
from nograd.tuning.bench import Task
from nograd.tuning.building import file_of
from nograd.tuning.values import Candidate
from nograd.tuning.worker import Worker, WorkerError, wait_any
from tests.torch_models import LastState
from tests.tuning_tasks import Classifier, Misbehaves, task_of
from tests.waiting import HANG_S

Start = Callable[..., Worker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a candidate's process; all are ended after the test."""
    started: list[Worker] = []

    def start(task: Task, candidate: Candidate, memory_bytes: int = 1 << 34) -> Worker:
        path = file_of(candidate, tmp_path)
        started.append(Worker(task, candidate, path, log=tmp_path / "log", memory_bytes=memory_bytes))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


@pytest.fixture(scope="module")
def task() -> Task:
    return task_of(Classifier())


@pytest.mark.parametrize(
    "candidate", [Candidate("onnx", lanes=2), Candidate("eager", lanes=2), Candidate("torchscript")], ids=str
)
def test_a_candidate_is_built_proven_and_timed(start: Start, task: Task, candidate: Candidate) -> None:
    worker = start(task, candidate)
    built = worker.ask("build", limit_s=HANG_S)
    worker.ask("open", limit_s=HANG_S)
    proven = worker.ask("prove", limit_s=HANG_S)
    seen = worker.ask("scout", limit_s=HANG_S, sizes=[1, 4, 8])
    point = worker.ask("curve", limit_s=HANG_S, rows=4)

    assert (built["file_bytes"] is None) == (candidate.backend == "eager")
    assert (proven["passed"], proven["failures"], proven["parity"]["rows"] >= 12) == (True, [], True)
    assert list(map(int, seen["by_rows"])) == [1, 4, 8]
    assert seen["lone_s"] > 0
    assert (point["size"], point["seconds"] > 0) == (4, True)


def test_a_length_that_varies_is_measured_in_padded_tokens(start: Start) -> None:
    worker = start(task_of(LastState(), torch.randn(4, 5, 4)), Candidate("eager"))
    worker.ask("open", limit_s=HANG_S)

    assert worker.ask("curve", limit_s=HANG_S, rows=4, length=5)["size"] == 20


def test_answers_that_differ_are_told_and_not_passed(start: Start) -> None:
    worker = start(task_of(Classifier(), tolerance=EXACT), Candidate("eager", "bfloat16"))
    worker.ask("open", limit_s=HANG_S)
    proven = worker.ask("prove", limit_s=HANG_S)

    assert not proven["passed"]
    assert "output 'output' differs by" in proven["failures"][0]


def test_a_metric_sees_answers_and_records_in_the_rows_order(start: Start) -> None:
    def agreement(answers: list[Any], records: list[dict[str, Any]]) -> float:
        return sum(bool(answer.argmax() == record["label"]) for answer, record in zip(answers, records, strict=True)) / len(
            answers
        )

    plain = task_of(Classifier())
    rows = torch.cat([torch.as_tensor(part["x"]) for part in plain.workload.parts])
    labels = plain.predictor.predict_class(rows).tolist()
    wrong = {0: (labels[0] + 1) % 3}
    records = tuple({"label": wrong.get(place, label)} for place, label in enumerate(labels))
    worker = start(task_of(Classifier(), metric=agreement, records=records), Candidate("eager"))
    worker.ask("open", limit_s=HANG_S)

    assert worker.ask("prove", limit_s=HANG_S)["metric"] == 11 / 12


def test_what_a_backend_raises_is_the_answer_and_the_process_lives(start: Start) -> None:
    worker = start(task_of(Misbehaves("raises")), Candidate("eager"))

    with pytest.raises(WorkerError, match=r"the model raised ValueError on x float32 .*: not here") as raised:
        worker.ask("open", limit_s=HANG_S)
    assert raised.value.alive
    with pytest.raises(WorkerError, match="the command is 'dance'; it must be one of build, open"):
        worker.ask("dance", limit_s=HANG_S)


def test_ctrl_c_at_any_moment_after_the_fork_is_not_the_workers(start: Start, task: Task) -> None:
    worker = start(task, Candidate("eager"))

    for _ in range(3):
        os.kill(worker.pid, signal.SIGINT)

    assert "error" not in worker.ask("open", limit_s=HANG_S)


def test_a_process_that_dies_is_told_with_its_signal(start: Start) -> None:
    worker = start(task_of(Misbehaves("crashes")), Candidate("eager"))

    with pytest.raises(WorkerError, match=r"its process ended with signal 6 \(SIGABRT\) while it was to open") as raised:
        worker.ask("open", limit_s=HANG_S)
    assert not raised.value.alive


def test_a_process_that_hangs_is_ended_at_its_limit(start: Start) -> None:
    worker = start(task_of(Misbehaves("hangs")), Candidate("eager"))

    with pytest.raises(WorkerError, match="it was not done after 0 s to open"):
        worker.ask("open", limit_s=0.2)
    with pytest.raises(WorkerError, match="it was not done after 0 s to open"):
        worker.ask("prove", limit_s=HANG_S)


def test_a_process_that_takes_too_much_memory_is_ended(start: Start) -> None:
    worker = start(task_of(Misbehaves("grows")), Candidate("eager"), memory_bytes=100_000_000)

    with pytest.raises(WorkerError, match=r"it took 0\.\d GB of memory to open; 0\.1 GB are allowed"):
        worker.ask("open", limit_s=HANG_S)


def test_of_several_the_one_that_is_done_is_found(start: Start, task: Task) -> None:
    hangs, works = start(task_of(Misbehaves("hangs")), Candidate("eager")), start(task, Candidate("eager"))
    hangs.send("open", limit_s=HANG_S)
    works.send("open", limit_s=HANG_S)

    assert wait_any([hangs, works]) is works
    assert works.receive()["open_s"] > 0


def test_no_process_is_left(start: Start, task: Task) -> None:
    worker = start(task, Candidate("eager"))
    pid = worker.pid
    worker.close()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_layout_under_load_serves_all_and_keeps_to_its_curve(start: Start, task: Task) -> None:
    worker = start(task, Candidate("onnx", lanes=2))
    worker.ask("build", limit_s=HANG_S)
    worker.ask("open", limit_s=HANG_S)
    found = worker.ask(
        "confirm", limit_s=HANG_S, curve={"sizes": [1, 32], "seconds": [1.0, 2.0], "unit": "rows"}, rows_per_s=200.0,
        seconds=0.2, max_batch_size=32, seed=3,
    )  # fmt: skip

    assert (found["failed"], 100 < found["offered_per_s"] < 400) == (0, True)  # 40 arrivals by chance, of a fixed seed
    assert 0 < found["cost_ratio"] < 1  # the curve given is far too slow
    assert found["predicted_p50_s"] >= 1.0


ORPHAN = """
import sys
from pathlib import Path
from nograd.tuning.values import Candidate
from nograd.tuning.worker import Worker
from tests.tuning_tasks import Misbehaves, task_of

worker = Worker(task_of(Misbehaves(sys.argv[1])), Candidate("eager"), None, log=Path(sys.argv[2]), memory_bytes=1 << 34)
if sys.argv[1] == "hangs":
    worker.send("open", limit_s=1e9)
print(worker.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("doing", ["hangs", "idles"])
def test_a_process_ends_when_its_parent_was_killed_also_within_a_command(tmp_path: Path, doing: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, doing, str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        ends = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    ended, _, _ = select.select([ends], [], [], HANG_S)
    os.close(ends)

    assert ended
