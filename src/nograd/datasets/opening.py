"""Select reader and output: by file extension, or by the user's option."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nograd.core.tensors import Signature
from nograd.datasets.csvs import CsvRows
from nograd.datasets.images import Images
from nograd.datasets.lines import JsonLines, TextLines
from nograd.datasets.outputs import CsvOutput, JsonOutput, Output
from nograd.datasets.records import Reader
from nograd.errors import ConfigError

__all__ = ["STDIN", "open_output", "open_reader", "output_kind"]

STDIN = "-"

INPUTS = {".jsonl": "jsonl", ".txt": "text", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
OUTPUTS = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
COMPRESSED = (".gz", ".zst")
LINES_SHARE = 32
"""A line may take at most 1 / LINES_SHARE of the memory."""


def open_reader(name: str, kind: str, memory_bytes: int) -> Reader:
    """Return the reader of an input.

    Args:
        name: a file, a folder of images, or `-` for standard input.
        kind: jsonl, text, csv, parquet, arrow, images; empty: by file extension, and jsonl from standard input.
        memory_bytes: memory limit of the run.

    Raises:
        ConfigError: the file does not exist, or its format is unknown.
        MissingExtraError: the format needs a package that is not installed.
        JobError: the file cannot be read.
    """
    kinds = (*dict.fromkeys(INPUTS.values()), "images")
    if kind and kind not in kinds:
        raise ConfigError(f"format is {kind!r}; it must be one of {', '.join(kinds)}")
    most = memory_bytes // LINES_SHARE
    if name == STDIN:
        if kind not in ("", "jsonl", "text"):
            raise ConfigError(f"format is {kind!r}; from standard input it must be jsonl or text")
        return (TextLines if kind == "text" else JsonLines)(None, max_line_bytes=most)
    path = Path(name)
    if path.is_dir():
        if kind not in ("", "images"):
            raise ConfigError(f"format is {kind!r}, but {name} is a folder; folders are read as images")
        return Images(path)
    if not path.is_file():
        raise ConfigError(f"{name} {'is not a regular file; use - for standard input' if path.exists() else 'does not exist'}")
    return _of_file(path, kind or _kind_of(path), most)


def _kind_of(path: Path) -> str:
    """Return a file's format by its extension."""
    endings = [each for each in path.suffixes if each not in COMPRESSED]
    kind = INPUTS.get(endings[-1] if endings else "")
    if kind is None:
        raise ConfigError(
            f"the input is {str(path)!r}; the name must end in {_join_names(INPUTS)}, with .gz or .zst after the first three, "
            "or give --input-format"
        )
    return kind


def _of_file(path: Path, kind: str, most: int) -> Reader:
    if kind == "jsonl":
        return JsonLines(path, max_line_bytes=most)
    if kind == "text":
        return TextLines(path, max_line_bytes=most)
    if kind == "csv":
        return CsvRows(path, max_row_bytes=most)
    if kind == "images":
        raise ConfigError(f"format is 'images', but {path} is not a folder")
    from nograd.datasets.arrow import ArrowRows, ParquetRows

    return (ParquetRows if kind == "parquet" else ArrowRows)(path)


def output_kind(path: Path) -> str:
    """Return the format of an output by its extension.

    Raises:
        ConfigError: the extension is unknown.
        MissingExtraError: the format needs pyarrow, which is not installed.
    """
    kind = OUTPUTS.get(path.suffix)
    if kind is None:
        raise ConfigError(f"the output is {str(path)!r}; the name must end in {_join_names(OUTPUTS)}")
    if kind in ("parquet", "arrow"):
        import nograd.datasets.arrow  # noqa: F401  raises if pyarrow is missing
    return kind


def open_output(kind: str, signature: Signature, predictions: Sequence[str], memory_bytes: int) -> Output:
    """Return the writer of an output.

    Args:
        kind: see `output_kind`.
        signature: the model's signature.
        predictions: names of the prediction columns, as far as they are known.
        memory_bytes: memory limit of the run.
    """
    if kind == "jsonl":
        return JsonOutput()
    if kind == "csv":
        return CsvOutput(predictions)
    from nograd.datasets.arrow_out import ArrowOutput, ParquetOutput

    return (ParquetOutput if kind == "parquet" else ArrowOutput)(signature, memory_bytes=memory_bytes // 8)


def _join_names(endings: Sequence[str] | dict[str, str]) -> str:
    return ", ".join(endings)
