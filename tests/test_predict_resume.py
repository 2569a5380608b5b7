"""`nograd predict` cut off anywhere goes on, and the output is that of a run that nobody disturbed, byte for byte."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nograd import Predictor
from nograd.datasets import disk
from nograd.datasets import run_files as keeping
from nograd.datasets.journal import read
from nograd.datasets.run_files import Files, WindowWriter
from nograd.errors import ConfigError, JobError
from tests.predicting import CrashError, Seen, crashing, nograd_predict, predict, read_jsonl, tmp_path, write_jsonl
from tests.running_server import FOLDER
from tests.served_models import Mortal

__all__ = ["tmp_path"]

FORMATS = ("jsonl", "csv", "parquet", "arrow")

KILLS = 3
"""Kills by format. The formats share the journal and the resumption; they differ in how a part is cut and finished, which the
tests below also interrupt at every step."""

ROWS = 2500
"""More than all runs that are killed can process together."""


def rows_of(count: int) -> list[Any]:
    return [{"id": i, "x": [i % 41, 0.5]} for i in range(count)]


@pytest.mark.parametrize("ending", FORMATS)
def test_killed_again_and_again_at_random_the_output_is_that_of_an_undisturbed_run(tmp_path: Path, ending: str) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows_of(ROWS))
    command: list[str | Path] = ["served_models:mortal", source, "--max-batch-size", "4", "--commit-every", "0", "-o"]
    lives = random.Random(ending).choices(range(20, 380), k=KILLS)
    assert sum(lives) < ROWS

    whole = nograd_predict(*command, tmp_path / f"whole.{ending}")
    killed, positions = [], []
    for life in lives:
        ended = nograd_predict(*command, tmp_path / f"cut.{ending}", NOGRAD_TEST_LIFE=f"{life} SIGKILL")
        killed.append(ended.returncode)
        positions.append(read(Files(tmp_path / f"cut.{ending}").journal.read_bytes()).commit.place.number)
    last = nograd_predict(*command, tmp_path / f"cut.{ending}")

    assert whole.returncode == last.returncode == 0, last.stderr
    assert killed == [-9] * KILLS
    assert positions == sorted(positions)
    assert 0 < positions[-1] < ROWS
    assert f"resuming after line {positions[-1]}" in last.stderr
    assert (tmp_path / f"cut.{ending}").read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("cut*")) == [f"cut.{ending}", f"cut.{ending}.journal"]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_cut_off_at_any_byte_the_output_is_that_of_an_undisturbed_run(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = rows_of(40)
    lines[13]["x"] = "bad"
    source = write_jsonl(tmp_path / "in.jsonl", lines)
    options: dict[str, Any] = {"max_batch_size": 1, "on_error": "skip"}
    with monkeypatch.context() as patch:
        count = crashing(patch, 10**9)
        predict(Mortal(), source, tmp_path / f"whole.{ending}", **options)
        total = count()

    for after in range(0, total, 37):
        output = tmp_path / f"cut{after}.{ending}"
        with monkeypatch.context() as patch:
            crashing(patch, after)
            with pytest.raises(CrashError):
                predict(Mortal(), source, output, **options)
        summary = predict(Mortal(), source, output, **options)

        assert (summary.rows, summary.bad) == (39, 1)
        assert output.read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
        assert [bad["line"] for bad in read_jsonl(Files(output).errors)] == [14]


@pytest.mark.parametrize("stop", ["replace", "sync"])
@pytest.mark.parametrize("ending", FORMATS)
def test_cut_off_while_the_output_is_made_of_the_part_it_is_made_again(
    tmp_path: Path, ending: str, stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows_of(10))
    predict(Mortal(), source, tmp_path / f"whole.{ending}")

    def before(source: Path, target: Path) -> None:
        raise CrashError

    def behind(source: Path, target: Path) -> None:
        disk.replace(source, target)
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(keeping, "replace", before if stop == "replace" else behind)
        with pytest.raises(CrashError):
            predict(Mortal(), source, tmp_path / f"cut.{ending}")
    assert predict(Mortal(), source, tmp_path / f"cut.{ending}").rows == 10

    assert (tmp_path / f"cut.{ending}").read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
    assert predict(Mortal(), source, tmp_path / f"cut.{ending}").was_whole


def test_a_disk_that_is_full_is_one_sentence_and_the_same_command_goes_on(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows_of(ROWS))
    output = tmp_path / "out.jsonl"
    arguments: list[str | Path] = [
        "predict",
        "served_models:mortal",
        source,
        "--max-batch-size=4",
        "--commit-every=0",
        "-o",
        output,
    ]
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "from nograd.cli import main; main()"
    )
    full = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=FOLDER, capture_output=True, text=True, timeout=300, check=False
    )
    kept = read(Files(output).journal.read_bytes()).commit
    predict(Mortal(), source, tmp_path / "whole.jsonl", max_batch_size=4)
    ended = nograd_predict(*arguments[1:])

    assert full.returncode == 1
    said = f"nograd: {output} cannot be written: File too large; finished work is kept; correct this, and run the same command"
    assert said in full.stderr
    assert 50_000 < kept.part_bytes <= 100_000
    assert ended.returncode == 0
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_ctrl_c_keeps_what_is_whole_and_says_how_to_go_on(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows_of(ROWS))
    command: list[str | Path] = [
        "served_models:mortal",
        source,
        "--max-batch-size",
        "4",
        "--commit-every",
        "1h",
        "-o",
        tmp_path / "out.jsonl",
    ]

    stopped = nograd_predict(*command, NOGRAD_TEST_LIFE="2000 SIGINT")
    kept = read(Files(tmp_path / "out.jsonl").journal.read_bytes()).commit
    ended = nograd_predict(*command)
    predict(Mortal(), source, tmp_path / "whole.jsonl", max_batch_size=4)

    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert stopped.stderr.endswith("stopped; rerun the command to resume\n")
    assert 0 < kept.rows < ROWS
    assert ended.returncode == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


# -- what is another run


def begun(tmp_path: Path, **options: Any) -> Path:
    """A run that stopped at a bad row behind its first windows."""
    source = write_jsonl(tmp_path / "in.jsonl", [*rows_of(200), {"id": 200, "x": "bad"}])
    with pytest.raises(JobError, match=r"in\.jsonl, line 201: "):
        predict(Mortal(), source, tmp_path / "out.jsonl", max_batch_size=4, **options)
    return source


def test_with_skip_a_run_that_failed_at_a_bad_row_goes_on(tmp_path: Path) -> None:
    source = begun(tmp_path)
    seen = Seen()

    summary = predict(Mortal(), source, tmp_path / "out.jsonl", max_batch_size=4, on_error="skip", seen=seen)

    assert (summary.rows, summary.rows_now, summary.bad) == (200, 200 - 192, 1)
    assert "resuming after line 192" in seen.notes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_batch_size": 8}, "max_batch_size was 4 and is 8"),
        ({"memory_bytes": 1 << 30}, f"memory was {2 << 30} bytes and is {1 << 30} bytes"),
        ({"format": "text"}, "format was by name and is text"),
    ],
)
def test_another_option_is_another_run(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    source = begun(tmp_path)

    with pytest.raises(ConfigError) as refused:
        predict(Mortal(), source, tmp_path / "out.jsonl", **{"max_batch_size": 4, **options})

    assert str(refused.value) == f"{tmp_path / 'out.jsonl'} was begun differently: {said}; use --restart to start again"


@pytest.mark.parametrize("change", ["size", "time", "beginning"])
def test_another_input_is_another_run_until_restart_begins_anew(tmp_path: Path, change: str) -> None:
    source = begun(tmp_path)
    content, state = source.read_text(), source.stat()
    source.write_text({"size": content + "\n", "time": content, "beginning": content.replace("0.5", "0.6", 1)}[change])
    os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns + (change == "time")))

    with pytest.raises(
        ConfigError, match=rf"was begun differently: input: {change} was .* and is .*; use --restart to start again"
    ):
        predict(Mortal(), source, tmp_path / "out.jsonl", max_batch_size=4)
    summary = predict(Mortal(), source, tmp_path / "out.jsonl", max_batch_size=4, restart=True, on_error="skip")

    assert (summary.rows_now, summary.bad) == (200, 1)


class Shifted(Mortal):
    """Another model under the same name."""

    def run(self, batch: Any) -> Any:
        return {name: array + 1 for name, array in super().run(batch).items()}


class Known(Mortal):
    """A model that says what its answers depend on."""

    def __init__(self, version: str) -> None:
        super().__init__()
        self.version = version

    def fingerprint(self) -> Any:
        from nograd.runtime.fingerprint import of_value

        return of_value(self.version)


def test_another_model_is_another_run_by_its_fingerprint_or_else_by_its_answers(tmp_path: Path) -> None:
    seen = Seen()
    source = begun(tmp_path, seen=seen)
    with pytest.raises(ConfigError, match=r"was begun differently: answers: first rows was \w+ and is \w+; use --restart"):
        predict(Shifted(), source, tmp_path / "out.jsonl", max_batch_size=4)
    assert seen.notes[0].startswith("the model is known by its name and its answers to the first rows only: ")

    good = write_jsonl(tmp_path / "good.jsonl", rows_of(3))
    predict(Known("1"), good, tmp_path / "known.jsonl")
    with pytest.raises(
        ConfigError, match=r"known.jsonl was made differently: model: fingerprint was \w+ and is \w+; use --restart"
    ):
        predict(Known("2"), good, tmp_path / "known.jsonl")


class Rolling(Mortal):
    """Never the same answer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.random = np.random.default_rng()

    def run(self, batch: Any) -> Any:
        return {name: array + self.random.random(dtype=np.float32) for name, array in super().run(batch).items()}


def test_a_model_that_draws_random_numbers_goes_on_and_says_that_it_does(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [*rows_of(100), {"x": "bad"}])
    seen = Seen()
    with pytest.raises(JobError):
        predict(Rolling(), source, tmp_path / "out.jsonl", max_batch_size=1, seen=seen)
    assert predict(Rolling(), source, tmp_path / "out.jsonl", max_batch_size=1, on_error="skip").rows == 100

    assert any(note.startswith("the same rows get different answers") for note in seen.notes)
    assert [row["id"] for row in read_jsonl(tmp_path / "out.jsonl")] == list(range(100))


def test_an_output_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows_of(3))
    output = tmp_path / "out.jsonl"
    output.write_text("mine\n")
    with pytest.raises(ConfigError, match=r"out.jsonl exists; choose another name, or use --restart to replace it"):
        predict(Mortal(), source, output)
    assert output.read_text() == "mine\n"

    assert predict(Mortal(), source, output, restart=True).rows_now == 3
    assert predict(Mortal(), source, output).was_whole
    output.write_text("mine\n")
    with pytest.raises(
        ConfigError, match=r"out\.jsonl was changed after nograd predict wrote it: .*out\.jsonl\.journal; --restart replaces it"
    ):
        predict(Mortal(), source, output)
    output.unlink()
    assert predict(Mortal(), source, output).rows_now == 3


def test_two_at_once_are_one_too_many(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows_of(3))
    with (
        WindowWriter(tmp_path / "out.jsonl", restart=False),
        pytest.raises(ConfigError, match=r"another nograd predict is writing .*out.jsonl now"),
    ):
        predict(Mortal(), source, tmp_path / "out.jsonl")

    assert predict(Mortal(), source, tmp_path / "out.jsonl").rows == 3


def test_an_input_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows_of(3))

    class Appending(Mortal):
        def run(self, batch: Any) -> Any:
            with source.open("a") as file:
                file.write("\n")
            return super().run(batch)

    with pytest.raises(JobError, match=r"in.jsonl was changed while it was read; use --restart to start again"):
        predict(Appending(), source, tmp_path / "out.jsonl")


def test_a_part_that_lost_bytes_is_told(tmp_path: Path) -> None:
    source = begun(tmp_path)
    Files(tmp_path / "out.jsonl").part.write_bytes(b"")

    with pytest.raises(
        ConfigError, match=r"out.jsonl.part has 0 bytes, and its journal records \d+; use --restart to start again"
    ):
        predict(Mortal(), source, tmp_path / "out.jsonl", max_batch_size=4)


def test_a_factory_without_a_sample_is_taught_by_the_first_rows_of_the_input_each_time(tmp_path: Path) -> None:
    import torch

    def model() -> Predictor:
        torch.manual_seed(0)
        return Predictor(torch.nn.Linear(1, 2), preprocess=lambda text: torch.tensor([float(len(text))]))

    source = tmp_path / "in.txt"
    source.write_bytes(b"a\nbb\n" * 50 + b"\xff\n")
    with pytest.raises(JobError, match=r"line 101: it is not UTF-8"):
        predict(model(), source, tmp_path / "out.jsonl", max_batch_size=1)
    summary = predict(model(), source, tmp_path / "out.jsonl", max_batch_size=1, on_error="skip")

    assert (summary.rows, summary.rows_now) == (100, 100 - 96)
