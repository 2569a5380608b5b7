"""What `nograd predict` reads and writes: every format into every other, columns, types, bad rows."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nograd import Predictor, Signature, TensorSpec
from nograd.core.tensors import Batch
from nograd.datasets.arrow_out import unified
from nograd.datasets.columns import ColumnOptions
from nograd.datasets.run_files import Files
from nograd.errors import ConfigError, JobError
from tests.fakes import Fake
from tests.predicting import predict, read_jsonl, write_jsonl

OUTPUTS = ["jsonl", "csv", "parquet", "arrow"]
INPUTS = ["jsonl", "jsonl.gz", "jsonl.zst", "csv", "csv.gz", "parquet", "arrow"]

ROWS: list[dict[str, Any]] = [{"id": i, "name": f'"{i}"\n, é', "x": [i / 4, -1.0]} for i in range(7)]


def doubling() -> Fake:
    """`y` is twice `x`, `total` its sum, `is_large` whether that is above 1."""
    outputs = (TensorSpec("y", "float32", (2,)), TensorSpec("total", "float64"), TensorSpec("is_large", "bool"))

    def run(batch: Batch) -> Batch:
        total = batch["x"].sum(1, dtype=np.float64)
        return {"y": batch["x"] * 2, "total": total, "is_large": total > 1}

    return Fake(run, Signature((TensorSpec("x", "float32", (2,)),), outputs, reason="rows are independent"))


def lengths() -> Fake:
    """Text in, its length and itself out."""
    signature = Signature(
        (TensorSpec("text", "bytes"),), (TensorSpec("length", "int64"), TensorSpec("again", "bytes")), reason="independent"
    )
    return Fake(lambda batch: {"length": np.array([len(each) for each in batch["text"]]), "again": batch["text"]}, signature)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format that the name says."""
    kind = path.name.split(".")[1]
    if kind == "jsonl":
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    elif kind == "csv":
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows([{k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows])
        content = path.read_bytes()
    else:
        table = pa.Table.from_pylist(rows)
        if kind == "parquet":
            pq.write_table(table, path, row_group_size=3)
        else:
            with pa.ipc.new_file(path, table.schema) as out:
                out.write_table(table, max_chunksize=3)
        return path
    if path.suffix == ".zst":
        content = pa.compress(content, codec="zstd", asbytes=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """Read rows of an output; of CSV, cells as JSON where they are."""
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [{k: v if k == "name" else json.loads(v) for k, v in row.items()} for row in csv.DictReader(file)]
    table = pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_all()
    found: list[dict[str, Any]] = table.to_pylist()
    return found


@pytest.mark.parametrize("ending", OUTPUTS)
@pytest.mark.parametrize("source", INPUTS)
def test_every_format_goes_into_every_other(tmp_path: Path, source: str, ending: str) -> None:
    path = write(tmp_path / f"in.{source}", ROWS)

    summary = predict(doubling(), path, tmp_path / f"out.{ending}", max_batch_size=1)

    assert (summary.rows, summary.bad) == (7, 0)
    found = read(tmp_path / f"out.{ending}")
    expected = [
        {"id": i, "name": f'"{i}"\n, é', "y": [i / 2, -2.0], "total": i / 4 - 1, "is_large": i / 4 - 1 > 1} for i in range(7)
    ]
    if source.startswith("csv") and ending != "csv":  # cells of CSV are text
        expected = [{**row, "id": str(row["id"])} for row in expected]
    assert found == expected
    assert list(found[0]) == ["id", "name", "y", "total", "is_large"]


@pytest.mark.parametrize("ending", OUTPUTS)
def test_text_lines_are_texts_an_empty_one_too_and_answers_may_be_text(tmp_path: Path, ending: str) -> None:
    (tmp_path / "in.txt").write_bytes(b"one\r\n\ntwo three")

    predict(lengths(), tmp_path / "in.txt", tmp_path / f"out.{ending}")

    if ending == "csv":
        assert (tmp_path / "out.csv").read_text() == "text,length,again\none,3,one\n,0,\ntwo three,9,two three\n"
    else:
        assert read(tmp_path / f"out.{ending}") == [
            {"text": "one", "length": 3, "again": "one"},
            {"text": "", "length": 0, "again": ""},
            {"text": "two three", "length": 9, "again": "two three"},
        ]


def test_json_is_carried_through_as_it_was_written(tmp_path: Path) -> None:
    line = '{"big": 12345678901234567890123, "x": [1, 2], "f": 1.10, "s": "\\u00e9", "o": {"k": [ 1,2 ]}}'
    (tmp_path / "in.jsonl").write_text(f"\n{line}\n\n")

    predict(doubling(), tmp_path / "in.jsonl", tmp_path / "out.jsonl", columns=ColumnOptions(drop=("s",)))

    assert (tmp_path / "out.jsonl").read_text() == (
        '{"big":12345678901234567890123,"f":1.10,"o":{"k": [ 1,2 ]},"y":[2.0,4.0],"total":3.0,"is_large":true}\n'
    )


def test_nan_is_null_in_json_and_itself_in_parquet(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", [{"x": [float("nan"), 1.0]}])

    predict(doubling(), source, tmp_path / "out.jsonl")
    predict(doubling(), source, tmp_path / "out.parquet")

    assert read(tmp_path / "out.jsonl") == [{"y": [None, 2.0], "total": None, "is_large": False}]
    assert np.isnan(read(tmp_path / "out.parquet")[0]["y"][0])


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_tensors_are_lists_of_fixed_size_in_the_models_dtype_and_columns_keep_their_types(tmp_path: Path, ending: str) -> None:
    when = pa.array([1_700_000_000_000_000_001, None], pa.timestamp("ns"))
    kinds = pa.array(["a", "b"]).dictionary_encode()
    price = pa.array([Decimal("1.10"), Decimal("2.20")], pa.decimal128(5, 2))
    table = pa.table(
        {"when": when, "kind": kinds, "price": price, "x": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float64()))}
    )
    pq.write_table(table, tmp_path / "in.parquet")

    predict(doubling(), tmp_path / "in.parquet", tmp_path / f"out.{ending}", columns=ColumnOptions(keep=("price", "when", "x")))

    found = (
        pq.read_table(tmp_path / "out.parquet") if ending == "parquet" else pa.ipc.open_file(tmp_path / "out.arrow").read_all()
    )
    assert found.select(["price", "when"]).equals(table.select(["price", "when"]))
    assert found.schema.field("y").type == pa.list_(pa.float32(), 2)
    assert found.schema.field("total").type == pa.float64()
    assert found.schema.field("is_large").type == pa.bool_()
    assert found.column_names == ["price", "when", "x", "y", "total", "is_large"]


def test_what_json_has_no_word_for_is_text(tmp_path: Path) -> None:
    row = {"when": dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC), "price": Decimal("1.10"), "raw": b"\x00\x01", "x": [1.0, 2.0]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "in.parquet")

    predict(doubling(), tmp_path / "in.parquet", tmp_path / "out.jsonl")

    found = read(tmp_path / "out.jsonl")[0]
    assert (found["when"], found["price"], found["raw"]) == ("2026-01-02T03:00:00+00:00", "1.10", "AAE=")


def varying() -> Predictor:
    """Answers `[tokens, 2]` for each row."""
    spec = TensorSpec("ids", "int64", ("tokens",))
    fake = Fake(
        lambda batch: {"state": np.repeat(batch["ids"][:, :, None], 2, axis=2).astype(np.float32)},
        Signature((spec,), (TensorSpec("state", "float32", ("tokens", 2)),), reason="padding is harmless"),
    )
    return Predictor(fake)


def test_outputs_that_vary_are_lists_of_lists_of_fixed_size(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"ids": list(range(1, 1 + n))} for n in (3, 1, 2)])

    summary = predict(varying(), source, tmp_path / "out.parquet")

    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.field("state").type == pa.list_(pa.list_(pa.float32(), 2))
    assert table.column("state").to_pylist() == [[[k, k] for k in range(1, 1 + n)] for n in (3, 1, 2)]
    assert 0 < summary.padding_share < 0.5


@pytest.mark.parametrize(
    ("values", "kind", "found"),
    [
        ([1, None, 2.5], pa.float64(), [1.0, None, 2.5]),
        ([1, "a", None], pa.string(), ["1", '"a"', None]),
        ([[1], [2.5], []], pa.list_(pa.float64()), [[1.0], [2.5], []]),
        ([{"a": 1}, {"b": "c"}, None], pa.struct([("a", pa.int64()), ("b", pa.string())]), None),
        ([{}, {}, {}], pa.string(), ["{}", "{}", "{}"]),
        ([None, None, None], pa.null(), [None, None, None]),
        ([2**70, 1, 2], pa.string(), None),
        ([True, [1], {"a": None}], pa.string(), ["true", "[1]", '{"a":null}']),
    ],
)
@pytest.mark.parametrize("max_batch_size", [1, 32])
def test_a_json_column_of_several_kinds_has_the_type_that_holds_all(
    tmp_path: Path, values: list[Any], kind: Any, found: list[Any] | None, max_batch_size: int
) -> None:
    padding = [{"v": None, "x": [0, 0]}] * 20  # with runs of one row, the values stand in several windows
    rows = [row for value in values for row in ({"v": value, "x": [0, 0]}, *padding)]
    source = write_jsonl(tmp_path / "in.jsonl", rows)

    predict(doubling(), source, tmp_path / "out.parquet", max_batch_size=max_batch_size)

    column = pq.read_table(tmp_path / "out.parquet").column("v")
    assert column.type == kind
    if found is not None:
        assert column.to_pylist()[:: len(padding) + 1] == found


def test_types_that_hold_both() -> None:
    assert unified(pa.int8(), pa.uint8()) == pa.int64()
    assert unified(pa.list_(pa.float32(), 2), pa.list_(pa.float32(), 3)) == pa.list_(pa.float32())
    assert unified(pa.list_(pa.int64()), pa.list_(pa.string())) is None
    assert unified(pa.struct([("a", pa.int64())]), pa.struct([("a", pa.string())])) is None


def test_columns_that_come_later_have_their_place_before_the_predictions(tmp_path: Path) -> None:
    rows = [{"x": [i, 0], **({"late": i} if i == 30 else {"a": i})} for i in range(40)]
    source = write_jsonl(tmp_path / "in.jsonl", rows)

    for ending in ("csv", "parquet"):
        predict(doubling(), source, tmp_path / f"out.{ending}", max_batch_size=1)

    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["a", "late", "y", "total", "is_large"]
    assert [row["late"] for row in table.to_pylist() if row["late"] is not None] == [30]
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "a,late,y,total,is_large"
    assert lines[31] == ',30,"[60.0,0.0]",30.0,true'


@pytest.mark.parametrize("ending", OUTPUTS)
def test_nothing_gives_nothing(tmp_path: Path, ending: str) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"")

    assert predict(doubling(), tmp_path / "in.jsonl", tmp_path / f"out.{ending}").rows == 0

    if ending in ("parquet", "arrow"):
        assert read(tmp_path / f"out.{ending}") == []
    else:
        assert (tmp_path / f"out.{ending}").read_text() == {"jsonl": "", "csv": "y,total,is_large\n"}[ending]
    assert predict(doubling(), tmp_path / "in.jsonl", tmp_path / f"out.{ending}", restart=True).rows == 0


# -- columns


@pytest.mark.parametrize(
    ("rows", "wanted", "said"),
    [
        (
            [{"a": [1, 2], "b": 1}],
            ColumnOptions(),
            "input 'x' has no column; the input has 'a', 'b'; select one with --map x=COLUMN",
        ),
        ([{"a": [1, 2]}], ColumnOptions({"z": "a"}), "--map z=a: unknown input 'z'; the model takes 'x'"),
        ([{"a": [1, 2]}], ColumnOptions({"x": "b"}), "there is no column 'b'; the input has 'a'"),
        ([{"x": [1, 2]}], ColumnOptions(keep=("b",)), "there is no column 'b'; the input has 'x'"),
        (
            [{"x": [1, 2], "y": 1}],
            ColumnOptions(),
            "column 'y' of the input has the name of a prediction; leave it out with --drop y",
        ),
    ],
)
def test_columns_that_do_not_fit_are_one_sentence_before_anything_starts(
    tmp_path: Path, rows: list[Any], wanted: ColumnOptions, said: str
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows)

    with pytest.raises(ConfigError) as refused:
        predict(doubling(), source, tmp_path / "out.jsonl", columns=wanted)

    assert str(refused.value) == said
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_columns_are_mapped_kept_and_dropped(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"v": [1, 2], "y": 1, "n": "a"}])

    predict(doubling(), source, tmp_path / "a.jsonl", columns=ColumnOptions({"x": "v"}, drop=("y",)))
    predict(doubling(), source, tmp_path / "b.jsonl", columns=ColumnOptions({"x": "v"}, keep=("n", "v")))

    assert [list(read(tmp_path / name)[0]) for name in ("a.jsonl", "b.jsonl")] == [
        ["n", "y", "total", "is_large"], ["n", "v", "y", "total", "is_large"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ('"hello"\n"you"\n', "value"),
        ('{"id": 1, "title": "hello"}\n{"id": 2, "title": "you"}\n', "title"),
        ('{"text": "hello", "title": 1}\n{"text": "you", "title": "b"}\n', "text"),
    ],
)
def test_the_text_is_the_column_of_that_name_or_the_only_one(tmp_path: Path, lines: str, text: str) -> None:
    (tmp_path / "in.jsonl").write_text(lines)

    predict(lengths(), tmp_path / "in.jsonl", tmp_path / "out.jsonl")

    assert [(row[text], row["length"]) for row in read(tmp_path / "out.jsonl")] == [("hello", 5), ("you", 3)]


def test_of_two_texts_the_user_says_which(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"title": "a", "body": "bcd"}])

    with pytest.raises(
        ConfigError, match="input 'text' has no column; the input has 'title', 'body'; select one with --map text=COL"
    ):
        predict(lengths(), source, tmp_path / "out.jsonl")
    predict(lengths(), source, tmp_path / "out.jsonl", columns=ColumnOptions({"text": "body"}))

    assert read(tmp_path / "out.jsonl") == [{"title": "a", "body": "bcd", "length": 3, "again": "bcd"}]


def test_a_preprocess_that_does_not_say_what_an_item_is_gets_the_whole_row(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"a": 1, "b": 2.5}])
    model = Predictor(
        doubling(),
        preprocess=lambda row: np.array([row["a"], row["b"]], np.float32),
        postprocess=lambda answer: {"label": "big", "scores": answer["y"], "parts": [1, (2, "c")]},
    )

    predict(model, source, tmp_path / "out.jsonl")

    assert read(tmp_path / "out.jsonl") == [{"a": 1, "b": 2.5, "label": "big", "scores": [2.0, 5.0], "parts": [1, [2, "c"]]}]


def test_a_postprocess_that_makes_no_dict_gives_the_column_answer(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"x": [1, 2]}])

    predict(Predictor(doubling(), postprocess=lambda answer: float(answer["total"])), source, tmp_path / "out.csv")

    assert (tmp_path / "out.csv").read_text() == "answer\n3.0\n"


@pytest.mark.parametrize("other", [lambda total: 0.5, lambda total: {"answer": int(total)}, lambda total: "n/a"])
def test_a_row_whose_answer_is_not_like_the_first_is_a_bad_row(tmp_path: Path, other: Any) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"x": [1, 2]}, {"x": [3, 4]}, {"x": [5, 6]}])

    def postprocess(answer: Any) -> Any:
        return other(answer["total"]) if answer["total"] == 7 else int(answer["total"])

    model = Predictor(doubling(), postprocess=postprocess)
    summary = predict(model, source, tmp_path / "out.csv", on_error="skip")

    assert (tmp_path / "out.csv").read_text() == "answer\n3\n11\n"
    assert summary.bad == 1
    (bad,) = read(tmp_path / "out.csv.errors.jsonl")
    assert "postprocess" in bad["reason"]
    assert "its first answer" in bad["reason"]


def test_text_in_arrays_and_bytes_are_written_as_text(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"x": [1, 2]}])
    model = Predictor(doubling(), postprocess=lambda _: {"a": np.array(["a", "bc"]), "b": np.array([b"ab"]), "c": b"c"})
    predict(model, source, tmp_path / "out.jsonl")

    (row,) = read(tmp_path / "out.jsonl")
    assert {name: row[name] for name in "abc"} == {"a": ["a", "bc"], "b": ["ab"], "c": "c"}


# -- bad rows


GOOD = {"x": [1, 2]}


def test_bad_rows_are_told_with_line_reason_and_what_they_were(tmp_path: Path) -> None:
    lines = [
        b'{"x": [1, 2], "n": 1}', b"{nope", b'{"n": 2}', b'{"x": null}', b'{"x": [1, "a"]}', b'{"x": [1, 2, 3]}', b"",
        b'{"x": "\xff"}', b'{"x": [42, 0]}', b'{"x": [1, 2], "y": 0}', b'{"x": [1e999, 0]}', b'{"x": [1, 2], "n": 3}',
    ]  # fmt: skip
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))

    class Refusing(Fake):
        def run(self, batch: Batch) -> Batch:
            if (batch["x"] == 42).any():
                raise ValueError("no 42 here")
            return super().run(batch)

    model = doubling()
    refusing = Refusing(model._function, model.signature)
    summary = predict(refusing, tmp_path / "in.jsonl", tmp_path / "out.jsonl", on_error="skip", max_batch_size=1)

    assert (summary.rows, summary.bad) == (2, 9)
    assert [row["n"] for row in read(tmp_path / "out.jsonl")] == [1, 3]
    told = {bad["line"]: bad["reason"] for bad in read_jsonl(Files(tmp_path / "out.jsonl").errors)}
    expected = {
        2: "it is not JSON: JSON is malformed", 3: "it has no 'x'", 4: "'x' is null", 5: "input 'x' ",
        6: "input 'x' is float32 [1, 3]; the model takes float32 [rows, 2]", 8: "it is not UTF-8: invalid start byte at byte 7",
        9: "the model raised ValueError: no 42 here", 10: "its column 'y' has the name of a prediction",
        11: "'x' cannot be read: ",
    }  # fmt: skip
    assert told.keys() == expected.keys()
    assert {line: told[line][: len(reason)] for line, reason in expected.items()} == expected
    assert [bad["raw"] for bad in read_jsonl(Files(tmp_path / "out.jsonl").errors)][1] == '{"n": 2}'


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("in.jsonl", b'{"x": [1, 2]}\n{nope\n', "line 2: it is not JSON: JSON is malformed"),
        ("in.csv", b'x\n"[1, 2]"\nabc\n', "row 2: 'x' is 'abc'; the model takes float32: a number, or a JSON list"),
        ("in.csv", b'n,x\n1,"[1, 2]"\n2\n', "row 2: it has 1 fields; the header names 2"),
        ("in.csv", b'n,x\n1,"[1, 2]"\n\xff,"[1, 2]"\n', "row 2: it is not UTF-8"),
    ],
)
def test_a_bad_row_fails_the_run_with_its_number_unless_it_is_skipped(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(JobError) as failed:
        predict(doubling(), tmp_path / name, tmp_path / "out.jsonl")
    errors = Files(tmp_path / "out.jsonl").errors
    kept = errors.read_bytes()
    summary = predict(doubling(), tmp_path / name, tmp_path / "out.jsonl", on_error="skip")

    assert str(failed.value).startswith(f"{tmp_path / name}, {said}")
    assert f"; the row is in {errors}. Rerun the command with --on-error skip" in str(failed.value)
    assert (summary.rows, summary.bad) == (1, 1)
    assert errors.read_bytes() == kept


def test_a_postprocess_that_raises_or_makes_what_no_file_holds_is_told_of_its_row(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"x": [i, 0]} for i in range(4)])
    answers = {0.0: 1, 1.0: object(), 2.0: 2**80}
    model = Predictor(doubling(), postprocess=lambda answer: answers[float(answer["total"])])

    predict(model, source, tmp_path / "out.jsonl", on_error="skip")

    assert read(tmp_path / "out.jsonl") == [{"answer": 1}]
    assert [bad["reason"] for bad in read_jsonl(Files(tmp_path / "out.jsonl").errors)] == [
        "the answer contains a object; files support numbers, text, arrays, lists and dicts",
        f"the answer contains {2**80}; files support integers of 64 bits",
        "postprocess raised KeyError: 3.0",
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "in.xml",
            b"",
            "the name must end in .jsonl, .txt, .csv, .parquet, .arrow, .feather, with .gz or .zst after the first",
        ),
        ("in.csv", b"x,x\n", "contains 'x' twice; every column needs its own name"),
        ("in.parquet", b"none", "cannot be read: "),
        ("in.arrow", b"none", "cannot be read: "),
    ],
)
def test_an_input_that_cannot_be_opened_is_one_sentence(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises((ConfigError, JobError)) as refused:
        predict(doubling(), tmp_path / name, tmp_path / "out.jsonl")

    assert said in str(refused.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_compressed_file_that_ends_early_is_told_when_all_before_is_written(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).random((5000, 2)).tolist()
    whole = gzip.compress("".join(json.dumps({"x": row}) + "\n" for row in numbers).encode())
    (tmp_path / "in.jsonl.gz").write_bytes(whole[:-1000])

    with pytest.raises(JobError, match=r"in.jsonl.gz cannot be read after line \d+: "):
        predict(doubling(), tmp_path / "in.jsonl.gz", tmp_path / "out.jsonl", max_batch_size=1)

    assert Files(tmp_path / "out.jsonl").part.read_bytes().count(b"\n") > 4000


def test_a_line_that_would_not_fit_into_the_memory_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(f'{{"x": [1, 2]}}\n{{"x": "{"a" * 100_000}"}}\n{{"x": [3, 4]}}')

    summary = predict(doubling(), tmp_path / "in.jsonl", tmp_path / "out.jsonl", on_error="skip", memory_bytes=1 << 20)

    assert (summary.rows, summary.bad) == (2, 1)
    (bad,) = read_jsonl(Files(tmp_path / "out.jsonl").errors)
    assert bad == {"line": 2, "reason": "it has 100010 bytes; with this --memory a line has at most 32768", "raw": None}


# -- images


def test_a_folder_of_images_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    for name, colour in (("c.png", (1, 2, 3)), ("b/a.png", (4, 5, 6)), ("a.PNG", (7, 8, 9)), (".hidden.png", (0, 0, 0))):
        Image.new("RGB", (3, 2), colour).save(folder / name, "png")
    (folder / "d.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    spec = TensorSpec("pixels", "uint8", ("height", "width", 3))
    signature = Signature((spec,), (TensorSpec("mean", "float32", (3,)),), batching="equal_lengths", reason="sizes differ")
    model = Fake(lambda batch: {"mean": batch["pixels"].mean((1, 2), dtype=np.float32)}, signature)

    summary = predict(model, folder, tmp_path / "out.jsonl", on_error="skip")

    assert (summary.rows, summary.bad) == (3, 1)
    assert read(tmp_path / "out.jsonl") == [
        {"file": "a.PNG", "mean": [7.0, 8.0, 9.0]},
        {"file": "b/a.png", "mean": [4.0, 5.0, 6.0]},
        {"file": "c.png", "mean": [1.0, 2.0, 3.0]},
    ]
    (bad,) = read_jsonl(Files(tmp_path / "out.jsonl").errors)
    assert (bad["image"], bad["raw"]) == (4, {"file": "d.jpg"})
    assert bad["reason"].startswith("it cannot be decoded: cannot identify image file")
