"""`nograd predict` as users run it: sentences, exit codes, standard input, no torch, and the lines that the README shows."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from nograd import load
from nograd.datasets.columns import ColumnOptions
from nograd.datasets.command import column_options
from nograd.errors import ConfigError
from tests.bundles import write_texts
from tests.predicting import nograd_predict, read_jsonl, write_jsonl
from tests.running_server import FOLDER

README = (FOLDER.parent / "README.md").read_text("utf-8")
LINES = re.findall(r"^    (nograd predict .*)$", README, re.MULTILINE)

TEXTS = [{"id": i, "title": " ".join(["hello", "world"] * (1 + i % 3))} for i in range(100)]

WITHOUT = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Without())
from nograd.cli import main
main()
"""


def without(missing: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command where some packages are not installed."""
    command = [sys.executable, "-c", WITHOUT.format(missing=missing), "predict", *map(str, arguments)]
    return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=300, check=False)


def test_a_bundle_predicts_without_torch_and_json_needs_no_pyarrow(tmp_path: Path) -> None:
    bundle = write_texts(tmp_path / "texts.bundle")
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS)

    ended = without(["torch", "transformers", "pyarrow", "PIL"], bundle, source, "-o", tmp_path / "out.jsonl")

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"{tmp_path / 'out.jsonl'}: 100 rows, ")
    expected = load(str(bundle)).predict([row["title"] for row in TEXTS])
    found = read_jsonl(tmp_path / "out.jsonl")
    assert [(row["id"], row["title"]) for row in found] == [(row["id"], row["title"]) for row in TEXTS]
    np.testing.assert_array_equal([row["embedding"] for row in found], [row["embedding"] for row in expected])


@pytest.mark.parametrize(
    ("missing", "source", "output", "said"),
    [
        ("pyarrow", "in.jsonl", "out.parquet", "pyarrow is not installed; run: pip install 'nograd[data]'"),
        ("pyarrow", "in.jsonl.zst", "out.jsonl", "pyarrow is not installed; run: pip install 'nograd[data]'"),
        ("PIL", ".", "out.jsonl", "pillow is not installed; run: pip install 'nograd[images]'"),
    ],
)
def test_a_package_that_is_not_installed_is_one_sentence(
    tmp_path: Path, missing: str, source: str, output: str, said: str
) -> None:
    (tmp_path / "in.jsonl").write_text("")
    (tmp_path / "in.jsonl.zst").write_text("")

    ended = without([missing], "served_models:mortal", tmp_path / source, "-o", tmp_path / output)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines()[-1] == f"nograd: {said}"


def test_standard_input_is_read_once_and_says_so(tmp_path: Path) -> None:
    text = "".join(json.dumps({"x": [i, 1]}) + "\n" for i in range(30))

    first = nograd_predict("served_models:mortal", "-", "-o", tmp_path / "out.jsonl", stdin=text)
    second = nograd_predict("served_models:mortal", "-", "-o", tmp_path / "out.jsonl", stdin=text)
    third = nograd_predict("served_models:mortal", "-", "-o", tmp_path / "out.jsonl", "--restart", stdin=text)

    assert (first.returncode, second.returncode, third.returncode) == (0, 2, 0), first.stderr
    assert "standard input cannot be read twice, so an interrupted run cannot be resumed\n" in first.stderr
    assert second.stderr.endswith(f"{tmp_path / 'out.jsonl'} exists; choose another name, or use --restart to replace it\n")
    assert [row["sum"] for row in read_jsonl(tmp_path / "out.jsonl")] == [float(i + 1) for i in range(30)]


def test_the_same_command_again_does_nothing(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"x": [1, 2]}])
    command: list[str | Path] = ["served_models:mortal", source, "-o", tmp_path / "out.csv"]

    nograd_predict(*command)
    written = (tmp_path / "out.csv").stat()
    again = nograd_predict(*command)

    assert again.returncode == 0
    assert again.stdout == f"{tmp_path / 'out.csv'}: 1 rows, whole already, made by this command: nothing to do\n"
    now = (tmp_path / "out.csv").stat()
    assert (now.st_ino, now.st_mtime_ns, now.st_size) == (written.st_ino, written.st_mtime_ns, written.st_size)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["in.jsonl", "-o", "OUT/out.jsonl"], 1, "in.jsonl, line 2: it has no 'x'; the row is in "),
        (["nothing.jsonl", "-o", "OUT/out.jsonl"], 2, "nothing.jsonl does not exist"),
        (["in.jsonl", "-o", "OUT/out.xml"], 2, "out.xml'; the name must end in .jsonl, .csv, .parquet, .arrow, .feather"),
        (["in.jsonl", "-o", "OUT/none/out.jsonl"], 2, "; the folder "),
        (["in.jsonl", "-o", "OUT/out.jsonl", "--map", "x"], 2, "map is 'x'; it must be INPUT=COLUMN"),
        (["in.jsonl", "-o", "OUT/out.jsonl", "--memory", "big"], 2, "memory is 'big'; it must be a size such as 4GB or 512MiB"),
        (
            ["in.jsonl", "-o", "OUT/out.jsonl", "--input-format", "xml"],
            2,
            "format is 'xml'; it must be one of jsonl, text, csv, parquet",
        ),
        (
            ["-", "-o", "OUT/out.jsonl", "--input-format", "csv"],
            2,
            "format is 'csv'; from standard input it must be jsonl or text",
        ),
        (["/dev/null", "-o", "OUT/out.jsonl"], 2, "/dev/null is not a regular file; use - for standard input"),
        (["in.jsonl", "-o", "OUT/out.jsonl", "--on-error", "stop"], 2, "on_error is 'stop'; it must be fail or skip"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_an_exit_code(
    tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"x": [1, 2]}, {"y": 1}])
    told = [str(tmp_path / each) if each == "in.jsonl" else each.replace("OUT", str(tmp_path)) for each in arguments]

    ended = nograd_predict("served_models:mortal", *told)

    assert (ended.returncode, ended.stdout) == (code, "")
    assert ended.stderr.splitlines()[-1].startswith("nograd: ")
    assert said in ended.stderr.splitlines()[-1]


def test_columns_are_read_as_they_are_written() -> None:
    assert column_options(["a=b", "c=d=e"], None, []) == ColumnOptions({"a": "b", "c": "d=e"}, None, ())
    assert column_options([], ["a", "b"], ["c"]) == ColumnOptions({}, ("a", "b"), ("c",))
    assert column_options([], [], []) == ColumnOptions({}, (), ())
    with pytest.raises(ConfigError, match="map is '=b'; it must be INPUT=COLUMN"):
        column_options(["=b"], None, [])


def test_the_lines_of_the_readme_run(tmp_path: Path) -> None:
    write_texts(tmp_path / "minilm.bundle")
    write_jsonl(tmp_path / "texts.jsonl", [{"text": row["title"]} for row in TEXTS[:40]])
    (tmp_path / "papers.csv").write_text("id,title,year\n" + "".join(f"{row['id']},{row['title']},2026\n" for row in TEXTS))
    assert len(LINES) == 2

    for line in LINES:
        command = [sys.executable, "-m", *shlex.split(line)]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stderr

    table = pq.read_table(tmp_path / "embeddings.parquet")
    assert (table.num_rows, table.column_names) == (40, ["text", "embedding"])
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[384]"
    found = read_jsonl(tmp_path / "embeddings.jsonl")
    assert [(row["id"], len(row["embedding"])) for row in found] == [(str(i), 300) for i in range(100)]
