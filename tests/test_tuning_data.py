"""The user's sample: every kind of file, and what is said of a bad one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nograd import Predictor
from nograd.core.tensors import Batch
from nograd.errors import ConfigError, SignatureError
from nograd.tuning.data import read_sample, sample_of
from tests.served_models import echo


@pytest.fixture(scope="module")
def rows() -> Predictor:
    return Predictor(torch.nn.Linear(4, 3), sample=torch.zeros(2, 4))


@pytest.fixture(scope="module")
def texts() -> Predictor:
    return echo()


def only(part: Batch) -> Any:
    (array,) = part.values()
    return array.tolist()


def test_an_npy_file_holds_the_rows_of_the_only_input(rows: Predictor, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(12, dtype=np.float32).reshape(3, 4))

    sample = read_sample(tmp_path / "x.npy", rows)

    assert [only(part) for part in sample.parts] == [[[0, 1, 2, 3]], [[4, 5, 6, 7]], [[8, 9, 10, 11]]]
    assert (sample.description, sample.lengths, sample.records) == ("3 rows of x.npy", (1, 1, 1), ())


def test_an_npz_file_holds_inputs_by_name_and_labels_beside(rows: Predictor, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", input=np.ones((2, 4), np.float32), label=[3, 5])

    sample = read_sample(tmp_path / "x.npz", rows)

    assert [only(part) for part in sample.parts] == [[[1, 1, 1, 1]]] * 2
    assert [int(record["label"]) for record in sample.records] == [3, 5]


def test_a_line_of_json_is_a_row_or_an_object_of_inputs(rows: Predictor, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('[1, 2, 3, 4]\n\n{"input": [5, 6, 7, 8], "label": "a"}\n')

    sample = read_sample(file, rows)

    assert [only(part) for part in sample.parts] == [[[1, 2, 3, 4]], [[5, 6, 7, 8]]]
    assert sample.records[1]["label"] == "a"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.txt", "ab\n\nabcd\n"),
        ("t.jsonl", '"ab"\n{"text": "abcd"}\n'),
        ("t.csv", "label,text\n1,ab\n0,abcd\n"),
    ],
)
def test_texts_come_as_lines_strings_objects_or_a_column(texts: Predictor, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)

    sample = read_sample(tmp_path / name, texts)

    assert [part["codes"].tolist() for part in sample.parts] == [[[97, 98]], [[97, 98, 99, 100]]]
    assert sample.lengths == (2, 4)
    assert sample.description == f"2 rows of {name}, 2 to 4 {texts.signature.lengths[0]}"


def test_of_many_rows_some_are_taken_evenly_from_first_to_last(rows: Predictor, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.repeat(np.arange(1000, dtype=np.float32)[:, None], 4, 1))

    sample = read_sample(tmp_path / "x.npy", rows, max_rows=4)

    assert [only(part)[0][0] for part in sample.parts] == [0, 333, 666, 999]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.pkl", "", r"the name must end in .jsonl, .txt, .csv, .npz, .npy"),
        ("x.jsonl", "", "x.jsonl contains no rows"),
        ("x.jsonl", "[1, 2]\n", r"x.jsonl, row 1: input 'input' is float32 \[1, 2\]; the model takes float32 \[rows, 4\]"),
        ("x.jsonl", "[1, 2,\n", "x.jsonl, line 1 is not JSON"),
        ("x.jsonl", '{"y": [1, 2, 3, 4]}\n', "x.jsonl, row 1: it has 'y'; the model takes 'input'"),
        ("x.npy", "no array", "x.npy cannot be read"),
    ],
)
def test_a_bad_file_is_told_with_the_place(rows: Predictor, tmp_path: Path, name: str, content: str, told: str) -> None:
    (tmp_path / name).write_text(content)

    with pytest.raises(ConfigError, match=told):
        read_sample(tmp_path / name, rows)


def test_a_file_that_is_not_there_is_told(rows: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the file does not exist"):
        read_sample(tmp_path / "x.npy", rows)


def test_an_npz_file_of_several_lengths_is_told_with_the_shapes(rows: Predictor, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", input=np.ones((2, 4), np.float32), label=[3, 5, 7])

    with pytest.raises(ConfigError, match=r"contains input \[2, 4\], label \[3\]; every array must be"):
        read_sample(tmp_path / "x.npz", rows)


def test_an_object_without_the_item_says_where_it_must_stand(texts: Predictor, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"body": "ab"}) + "\n")

    with pytest.raises(ConfigError, match="row 1: it has 'body'; the model's item must be in 'text'"):
        read_sample(tmp_path / "t.jsonl", texts)


def test_inputs_in_memory_become_single_rows(rows: Predictor, texts: Predictor) -> None:
    given = sample_of(rows, torch.arange(8.0).reshape(2, 4))
    listed = sample_of(texts, ["ab", "abc"])

    assert [only(part) for part in given.parts] == [[[0, 1, 2, 3]], [[4, 5, 6, 7]]]
    assert listed.lengths == (2, 3)
    assert sample_of(rows).description == "2 rows of the probed sample"
    assert len(sample_of(texts).parts) >= 2


def test_inputs_that_are_not_the_models_are_told(rows: Predictor) -> None:
    with pytest.raises(SignatureError, match="the model takes float32"):
        sample_of(rows, torch.zeros(2, 5))
