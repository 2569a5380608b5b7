"""`nograd predict`: a row beyond or below the model's size limit is an error of that row, which names the limit."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nograd import Signature, TensorSpec
from nograd.datasets.run_files import Files
from nograd.errors import JobError
from tests.fakes import Fake
from tests.predicting import predict, read_jsonl, write_jsonl

IDS = TensorSpec("ids", "int64", ("tokens",))
TOTAL = TensorSpec("total", "int64", ())
LENGTHS = [2, 5, 12, 3, 7]


def summing() -> Fake:
    """`total` is the sum of `ids`, which has 2 to 12 tokens."""
    signature = Signature(
        (IDS,),
        (TOTAL,),
        batching="pad",
        reason="padding of 0 changes nothing",
        min_sizes={"tokens": 2},
        max_sizes={"tokens": 12},
    )
    return Fake(lambda batch: {"total": batch["ids"].sum(axis=1)}, signature)


def rows_of(lengths: list[int]) -> list[dict[str, Any]]:
    return [{"id": number, "ids": list(range(1, length + 1))} for number, length in enumerate(lengths)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        return write_jsonl(path, rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "ids"])
        table.writerows([row["id"], json.dumps(row["ids"])] for row in rows)
    return path


def totals(path: Path) -> dict[int, int]:
    """Return the totals of an output by `id`."""
    if path.suffix == ".jsonl":
        return {row["id"]: row["total"] for row in read_jsonl(path)}
    with path.open(newline="", encoding="utf-8") as file:
        return {int(row["id"]): int(row["total"]) for row in csv.DictReader(file)}


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("size", [13, 1, 400])
@pytest.mark.parametrize("place", [0, 3])
def test_a_row_of_a_size_that_the_model_refuses_is_an_error_of_that_row(
    tmp_path: Path, ending: str, size: int, place: int
) -> None:
    lengths = [*LENGTHS[:place], size, *LENGTHS[place:]]
    source = write(tmp_path / f"in.{ending}", rows_of(lengths))
    output = tmp_path / f"out.{ending}"

    summary = predict(summing(), source, output, on_error="skip", max_batch_size=2)

    assert (summary.rows, summary.bad) == (5, 1)
    assert totals(output) == {n: length * (length + 1) // 2 for n, length in enumerate(lengths) if n != place}
    [bad] = read_jsonl(Files(output).errors)
    assert bad["line" if ending == "jsonl" else "row"] == place + 1
    assert bad["reason"] == f"input 'ids' has {size} tokens; the model takes 2 to 12"


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("size", [13, 1])
def test_a_run_that_failed_at_a_size_limit_resumes_with_the_same_error_and_the_bytes_of_an_undisturbed_run(
    tmp_path: Path, ending: str, size: int
) -> None:
    lengths = np.resize(LENGTHS, 70).tolist()
    lengths[50] = size
    source = write(tmp_path / f"in.{ending}", rows_of(lengths))
    whole, output = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    options: dict[str, Any] = {"max_batch_size": 2}
    predict(summing(), source, whole, on_error="skip", **options)

    for _ in range(2):  # the same command fails at the same row
        with pytest.raises(JobError, match=rf"input 'ids' has {size} tokens; the model takes 2 to 12; the row is in"):
            predict(summing(), source, output, **options)
    summary = predict(summing(), source, output, on_error="skip", **options)

    assert 0 < summary.rows_now < 69
    assert output.read_bytes() == whole.read_bytes()
    assert Files(output).errors.read_bytes() == Files(whole).errors.read_bytes()
