"""How `nograd predict` bounds its memory: windows by rows and bytes, few of them at once. What it says meanwhile."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd import BatchPredictor, Predictor, Signature, TensorSpec
from nograd.core.tensors import Batch
from nograd.datasets.progress import Lines, RateEstimate, show_progress, summary_of
from nograd.datasets.records import InputPosition, Record
from nograd.datasets.run import PredictJob, RunSummary, run
from nograd.datasets.windows import IN_FLIGHT, Layout, RowMemory, cut, layout_for
from nograd.errors import ConfigError, ItemError
from tests.fakes import Fake, doubling
from tests.predicting import Seen, predict, read_jsonl, tmp_path, write_jsonl

__all__ = ["tmp_path"]


def records(sizes: list[int]) -> list[Record]:
    return [Record(InputPosition(number), size, {}, None) for number, size in enumerate(sizes, start=1)]


LAYOUTS = st.builds(
    Layout, st.integers(1, 9), st.integers(1, 500), st.integers(0, 50), st.integers(1, 5), st.just(48.0)
)  # fmt: skip


@given(st.lists(st.integers(0, 200), max_size=40), LAYOUTS)
def test_windows_hold_every_record_once_and_no_more_rows_or_bytes_than_they_may(sizes: list[int], layout: Layout) -> None:
    windows = list(cut(iter(records(sizes)), layout))

    assert [record for window in windows for record in window] == records(sizes)
    for window in windows:
        assert 1 <= len(window) <= layout.max_rows
        assert len(window) == 1 or sum(map(layout.bytes_of, window)) <= layout.max_bytes
    for window, following in pairwise(windows):
        held = sum(map(layout.bytes_of, window)) + layout.bytes_of(following[0])
        assert len(window) == layout.max_rows or held > layout.max_bytes


@given(st.lists(st.integers(0, 200), max_size=40), LAYOUTS, st.data())
def test_what_is_cut_behind_a_window_is_cut_as_it_was_before(sizes: list[int], layout: Layout, data: st.DataObject) -> None:
    windows = list(cut(iter(records(sizes)), layout))
    done = data.draw(st.integers(0, len(windows)))
    rest = records(sizes)[sum(map(len, windows[:done])) :]

    assert list(cut(iter(rest), layout)) == windows[done:]


SIZES = st.integers(0, 10**9)


@given(st.lists(st.builds(RowMemory, SIZES, SIZES, SIZES), max_size=20), st.integers(1 << 20, 1 << 32))
def test_a_layout_counts_at_least_what_was_seen_of_every_record(seen: list[RowMemory], memory_bytes: int) -> None:
    layout = layout_for(memory_bytes, 32, 48.0, seen)

    assert layout.max_rows == 512
    assert layout.max_bytes * IN_FLIGHT <= memory_bytes
    for read, fixed, growing in seen:
        assert layout.bytes_of(Record(InputPosition(1), read, {}, None)) >= fixed + growing


def test_a_text_that_is_longer_than_those_seen_counts_as_more_and_its_answer_as_one() -> None:
    layout = layout_for(1 << 30, 32, 48.0, [RowMemory(9, 5000, 400)])

    assert layout.bytes_of(Record(InputPosition(1), 9, {}, None)) == 5400
    assert layout.bytes_of(Record(InputPosition(1), 9999, {}, None)) == 405_000


WIDE = 4096


class Counting(Fake):
    """Answers one number with many, and counts the bytes of its answers that nobody has taken yet."""

    def __init__(self) -> None:
        signature = Signature((TensorSpec("x", "float32"),), (TensorSpec("wide", "float32", (WIDE,)),), reason="independent")
        super().__init__(lambda batch: {"wide": np.repeat(batch["x"][:, None], WIDE, axis=1)}, signature)
        self.rows = 0

    def run(self, batch: Batch) -> Batch:
        self.rows += len(batch["x"])
        return super().run(batch)


class Watching(Seen):
    """Looks at the model each time that a window has been written."""

    def __init__(self, model: Counting) -> None:
        super().__init__()
        self._model, self.most_ahead = model, 0

    def update(self, rows: int, fraction: float | None) -> None:
        super().update(rows, fraction)
        self.most_ahead = max(self.most_ahead, self._model.rows - rows)


@pytest.mark.parametrize(("memory_bytes", "least_windows"), [(4 << 20, 40), (64 << 20, 3)])
def test_no_more_is_run_ahead_than_the_memory_holds(tmp_path: Path, memory_bytes: int, least_windows: int) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"x": i} for i in range(600)])
    model = Counting()
    seen = Watching(model)

    predict(model, source, tmp_path / "out.jsonl", memory_bytes=memory_bytes, max_batch_size=8, seen=seen)

    trial = 2 * 8
    assert len(seen.updates) >= least_windows
    assert (seen.most_ahead - trial) * WIDE * 4 <= memory_bytes
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 600


def test_the_answers_do_not_depend_on_how_much_was_read_ahead(tmp_path: Path) -> None:
    rows = [np.float32(n) for n in range(50)]
    model = Counting()
    bulk = BatchPredictor(Predictor(model), max_batch_size=4)

    found = list(bulk.run_windows([rows[:7], [], rows[7:]]))

    assert [len(window.rows) for window in found] == [7, 0, 43]
    assert [len(run["x"]) for run in model.runs] == [4, 3, *[4] * 10, 3]


def test_a_bad_item_in_a_window_costs_nobody_else_the_answer() -> None:
    def items() -> Iterator[list[Any]]:
        yield [[1, 2], ["a", 2], [3, 4]]
        yield [[1]]

    first, second = BatchPredictor(Predictor(doubling())).run_windows(items())

    assert isinstance(first.rows[1], ItemError)
    assert first.rows[1].index == 1
    assert [row["output"].tolist() for row in first.rows if not isinstance(row, ItemError)] == [[[2, 4]], [[6, 8]]]
    assert isinstance(second.rows[0], ItemError)


class Sizes(Fake):
    """How long texts are; a text of eight letters cannot be prepared."""

    def __init__(self, *, repeatable: bool = True) -> None:
        spec, out = TensorSpec("size", "float32", (1,)), TensorSpec("output", "float32", (1,))
        signature = Signature((spec,), (out,), reason="rows are independent", repeatable=repeatable)
        super().__init__(lambda batch: {"output": batch["size"] * 2}, signature)

    def prepare(self, text: str) -> dict[str, Any]:
        if len(text) == 8:
            raise ValueError("eight letters")
        return {"size": np.full(1, len(text), np.float32)}

    @property
    def rows(self) -> int:
        return sum(len(run["size"]) for run in self.runs)


TEXTS = st.lists(st.lists(st.text("ab", max_size=9), max_size=12), max_size=4)


@given(TEXTS)
def test_a_text_that_stands_in_a_window_twice_is_run_once_and_answers_twice(windows: list[list[str]]) -> None:
    model = Sizes()

    found = list(BatchPredictor(Predictor(model, preprocess=model.prepare), max_batch_size=4).run_windows(windows))

    assert model.rows == sum(len({text for text in window if len(text) != 8}) for window in windows)
    assert [answered.repeats for answered in found] == [len(window) - len(set(window)) for window in windows]
    for window, answered in zip(windows, found, strict=True):
        for text, row in zip(window, answered.rows, strict=True):
            if isinstance(row, ItemError):
                assert len(text) == 8
            else:
                assert row["output"].tolist() == [[2.0 * len(text)]]
        arrays = [row["output"] for row in answered.rows if not isinstance(row, ItemError)]
        assert not any(np.shares_memory(one, other) for at, one in enumerate(arrays) for other in arrays[:at])


def test_a_model_that_answers_otherwise_each_time_is_asked_each_time() -> None:
    model = Sizes(repeatable=False)

    (found,) = BatchPredictor(Predictor(model, preprocess=model.prepare)).run_windows([["a", "b", "a"]])

    assert (model.rows, found.repeats) == (3, 0)


def test_repeated_texts_are_told_at_the_end_also_of_a_run_that_was_cut_off(tmp_path: Path) -> None:
    model = Sizes()
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": "ab" * (i % 3)} for i in range(200)])
    job = PredictJob("m", str(source), tmp_path / "out.jsonl", max_batch_size=4, commit_s=0.0)

    class Unplugged(Seen):
        def update(self, rows: int, fraction: float | None) -> None:
            if rows >= 128:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job, lambda: Predictor(model, preprocess=model.prepare), Unplugged(), lambda: 0.0)
    summary = run(job, lambda: Predictor(model, preprocess=model.prepare), Seen(), lambda: 0.0)

    assert (summary.rows, summary.rows_now, summary.repeats) == (200, 72, 200 - 4 * 3)  # in four windows of 64 rows
    assert [row["output"] for row in read_jsonl(job.output)] == [[4.0 * (i % 3)] for i in range(200)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_batch_size": 0}, "max_batch_size is 0; it must be at least 1"),
        ({"memory_bytes": 1000}, "memory is 1000 bytes; it must be at least 1MiB"),
        ({"on_error": "stop"}, "on_error is 'stop'; it must be fail or skip"),
        ({"commit_s": -1.0}, "commit_s is -1.0; it must be 0 or more, finite"),
    ],
)
def test_a_setting_out_of_range_is_one_sentence(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        PredictJob("model", "in.jsonl", Path("out.jsonl"), **settings)

    assert str(refused.value) == said


# -- what the user sees


def test_rate_and_time_left_count_from_the_first_window() -> None:
    course = RateEstimate()

    assert course.describe(100.0, 512, 0.5) == "512 rows, 50%"
    assert course.describe(110.0, 1536, 0.6) == "1,536 rows, 102/s, 60%, 40 s left"
    assert course.describe(1100.0, 1546, 0.6) == "1,546 rows, 1.03/s, 60%, 66 min left"
    assert course.describe(1100.0, 1546, None) == "1,546 rows, 1.03/s"
    assert course.describe(1200.0, 1612, 1.0) == "1,612 rows, 1/s, 100%"


def test_where_there_is_no_terminal_a_line_is_written_once_a_minute_at_most() -> None:
    now, lines = [0.0], list[str]()
    shown = Lines(lines.append, lambda: now[0])

    for second in range(0, 200, 7):
        now[0] = float(second)
        shown.update(10 * second, second / 400)

    assert lines == [
        "630 rows, 10/s, 16%, 5:37 min left", "1,260 rows, 10/s, 32%, 4:34 min left", "1,890 rows, 10/s, 47%, 3:31 min left",
    ]  # fmt: skip


def test_on_a_terminal_there_is_a_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with show_progress(terminal, lambda: 0.0) as shown:
        shown.note("a note")
        shown.update(1234, 0.5)
        shown.update(1300, None)

    assert "a note" in terminal.getvalue()
    assert "1,300 rows" in terminal.getvalue()


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        (RunSummary(1500, 1500, 0, 0.0, 0, 3.0), "out: 1,500 rows, 3.0 s, 500/s"),
        (
            RunSummary(1500, 500, 2, 0.042, 9, 3.0),
            "out: 1,500 rows, 500 of them in 3.0 s, 167/s, padding 4.2%, 9 repeated texts not run again, 2 bad rows in E",
        ),
        (
            RunSummary(1500, 0, 0, 0.0, 0, 0.0, was_whole=True),
            "out: 1,500 rows, whole already, made by this command: nothing to do",
        ),
    ],
)
def test_the_summary_says_rows_rate_padding_and_bad_rows(summary: RunSummary, said: str) -> None:
    assert summary_of(summary, "out", "E") == said
