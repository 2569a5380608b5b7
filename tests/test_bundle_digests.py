"""Every file of a bundle is what it was when it was written, or an error names it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nograd.bundle import Bundle
from nograd.bundle.digests import SUMS, read_sums
from nograd.errors import ModelLoadError
from tests.bundles import listed, write_rows, write_texts

ROW_FILES = ["bundle.json", "example.safetensors", "model.onnx", "model.onnx.data", "report.html", "report.json"]
TEXT_FILES = ["bundle.json", "model.onnx", "model.onnx.data", "tokenizer.json"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "rows": write_rows(folder / "rows"),
        "texts": write_texts(folder / "texts"),
        "zip": write_rows(folder / "rows.zip"),
    }


@pytest.fixture
def rows(written: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written["rows"], tmp_path / "rows"))


def refusal(path: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        Bundle.read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_bundle_holds_what_serving_needs_and_nothing_else(written: dict[str, Path]) -> None:
    assert listed(written["rows"]) == sorted([SUMS, *ROW_FILES])
    assert listed(written["texts"]) == sorted([SUMS, *TEXT_FILES])
    assert [file.name for file in Bundle.read(written["rows"]).files] == ROW_FILES


def test_coreutils_check_the_same_list(written: dict[str, Path]) -> None:
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", SUMS], cwd=written["rows"], capture_output=True, text=True, check=True
    )

    assert done.stdout == "".join(f"{name}: OK\n" for name in ROW_FILES)


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize(("kind", "name"), [*(("rows", name) for name in ROW_FILES), *(("texts", name) for name in TEXT_FILES)])
def test_a_flipped_bit_is_an_error_that_names_the_file(
    written: dict[str, Path], tmp_path: Path, kind: str, name: str, where: str
) -> None:
    bundle = Path(shutil.copytree(written[kind], tmp_path / kind))
    size = (bundle / name).stat().st_size
    flip(bundle / name, {"first": 0, "middle": size // 2, "last": size - 1}[where])

    assert f"is damaged: {name} is not the file that SHA256SUMS describes" in refusal(bundle)


def test_a_flipped_bit_anywhere_in_the_list_is_an_error_that_names_the_list(rows: Path) -> None:
    content = (rows / SUMS).read_bytes()
    for position in range(len(content)):
        flip(rows / SUMS, position)
        assert SUMS in refusal(rows), position
        (rows / SUMS).write_bytes(content)
    Bundle.read(rows).close()


@pytest.mark.parametrize("name", [SUMS, *ROW_FILES])
def test_a_file_cut_short_or_missing_is_named(rows: Path, name: str) -> None:
    content = (rows / name).read_bytes()
    (rows / name).write_bytes(content[:-1])
    assert name in refusal(rows)
    (rows / name).unlink()
    assert name in refusal(rows)


def linked(path: Path) -> None:
    target = path.parent.parent / "elsewhere"
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: (path / "notes.txt").write_text("hello"), "contains notes.txt, which SHA256SUMS does not list"),
        (lambda path: ((path / "model").mkdir(), (path / "model" / "x.py").touch()), "contains model/x.py, which SHA256SUMS"),
        (lambda path: linked(path / "model.onnx.data"), "model.onnx.data is a symbolic link"),
        (lambda path: (path / "more").symlink_to(path), "more is a symbolic link"),
        (lambda path: os.mkfifo(path / "pipe"), "pipe is no file"),
        (lambda path: linked(path / SUMS), "SHA256SUMS"),
    ],
    ids=["file", "file below", "link for a file", "link to a folder", "pipe", "link for the list"],
)
def test_what_was_not_written_is_not_taken(rows: Path, change: Callable[[Path], object], said: str) -> None:
    change(rows)

    assert said in refusal(rows)


@pytest.mark.parametrize(
    "line",
    [
        "../secret", "/etc/passwd", "a/../b", "./model.onnx", "a//b", "", "SHA256SUMS", "a b", "a\\b", "model.onnx", "*x",
        "a\x00", "é",
    ],
)  # fmt: skip
def test_a_listed_name_that_cannot_be_in_a_bundle_is_refused(line: str) -> None:
    text = f"{'a' * 64}  model.onnx\n{'b' * 64}  {line}\n".encode()

    with pytest.raises(ModelLoadError, match=r"here is damaged: line 2 of SHA256SUMS"):
        read_sums(text, "here")


def relisted(bundle: Path) -> Path:
    """Do what somebody does who changes a bundle and its list."""
    names = sorted(path.name for path in bundle.iterdir() if path.name != SUMS)
    done = subprocess.run(["sha256sum", *names], cwd=bundle, capture_output=True, check=True)
    (bundle / SUMS).write_bytes(done.stdout)
    return bundle


def test_a_file_that_this_kind_of_bundle_has_no_use_for_is_refused_though_it_is_listed(rows: Path) -> None:
    (rows / "model.pt").write_bytes(b"")

    assert "contains model.pt, which does not belong in a bundle of onnx" in refusal(relisted(rows))


def test_a_newer_format_says_so_before_anything_else(rows: Path) -> None:
    plain = json.loads((rows / "bundle.json").read_text())
    (rows / "bundle.json").write_text(json.dumps({**plain, "format": 2, "something": "new"}))
    assert "has format 2; this nograd reads up to 1: update nograd" in refusal(relisted(rows))
    (rows / "bundle.json").write_text(json.dumps({**plain, "something": "new"}))
    assert "bundle.json cannot be read: Object contains unknown field `something`" in refusal(relisted(rows))
    (rows / "bundle.json").write_text("{")
    assert "bundle.json cannot be read" in refusal(relisted(rows))
    (rows / "bundle.json").unlink()
    assert "is not a bundle: it contains no bundle.json" in refusal(relisted(rows))


def test_what_is_no_bundle_is_told_so(tmp_path: Path) -> None:
    assert "nothing does not exist" in refusal(tmp_path / "nothing")
    assert "is not a bundle: it contains no SHA256SUMS" in refusal(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"no archive")
    assert "x.zip is damaged: File is not a zip file" in refusal(tmp_path / "x.zip")


# -- in a zip


def repacked(
    source: Path, target: Path, change: Callable[[str, bytes], tuple[str, bytes]], kind: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", kind) as new:
        for entry in old.infolist():
            new.writestr(*change(entry.filename, old.read(entry)))
    return target


def test_a_zip_holds_the_same_files(written: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(written["zip"]) as archive:
        assert sorted(archive.namelist()) == sorted([SUMS, *ROW_FILES])
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    same = repacked(written["zip"], tmp_path / "same.zip", lambda name, content: (name, content))
    with Bundle.read(same) as bundle:
        assert [file.name for file in bundle.files] == ROW_FILES


@pytest.mark.parametrize("name", ROW_FILES)
def test_a_flipped_bit_in_a_zip_names_the_file(written: dict[str, Path], tmp_path: Path, name: str) -> None:
    def change(other: str, content: bytes) -> tuple[str, bytes]:
        return other, bytes([content[0] ^ 1, *content[1:]]) if other == name else content

    assert f"{name} is not the file that SHA256SUMS describes" in refusal(repacked(written["zip"], tmp_path / "x.zip", change))


def test_every_flipped_bit_of_an_archives_data_is_noticed(written: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(written["zip"], tmp_path / "x.zip"))
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("model.onnx")
    flip(path, entry.header_offset + 30 + len(entry.filename) + 10)

    assert "model.onnx" in refusal(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../model.onnx", "contains ../model.onnx, which SHA256SUMS does not list"),
        ("/tmp/x", "contains /tmp/x, which SHA256SUMS does not list"),
        ("extra", "contains extra, which SHA256SUMS does not list"),
        ("folder/", "folder/ is not a file"),
    ],
)
def test_a_zip_with_other_names_is_refused_before_anything_is_unpacked(
    written: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    path = Path(shutil.copy(written["zip"], tmp_path / "x.zip"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"")
    monkeypatch.setattr("shutil.copyfileobj", lambda *_: pytest.fail("something was unpacked"))

    assert said in refusal(path)


def test_a_zip_that_is_compressed_or_holds_a_link_or_overlaps_is_refused(written: dict[str, Path], tmp_path: Path) -> None:
    packed = repacked(written["zip"], tmp_path / "packed.zip", lambda name, content: (name, content), zipfile.ZIP_DEFLATED)
    assert "is compressed or encrypted; pack a bundle with: zip -0 -r -D" in refusal(packed)

    link = Path(shutil.copy(written["zip"], tmp_path / "link.zip"))
    with zipfile.ZipFile(link, "a") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, b"/etc/passwd")
    assert "link is not a file; a bundle contains only files" in refusal(link)

    twice = Path(shutil.copy(written["zip"], tmp_path / "twice.zip"))
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(twice, "a") as archive:
        archive.writestr("bundle.json", b"{}")
    assert "its files overlap" in refusal(twice)


def test_files_that_lie_inside_of_each_other_are_refused(tmp_path: Path) -> None:
    """How a small archive unpacks to a large one without compressing anything."""
    inner = tmp_path / "inner.zip"
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("b", bytes(4096))
    with zipfile.ZipFile(inner) as archive:
        (entry,) = archive.infolist()
        assert archive.fp is not None
        archive.fp.seek(0)
        content = archive.fp.read(archive.start_dir)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a", content)
        entry.header_offset = 30 + len("a")
        archive.writestr(SUMS, f"{'0' * 64}  a\n{'0' * 64}  b\n")
        archive.filelist.append(entry)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert archive.namelist() == ["a", SUMS, "b"]

    assert "x.zip is damaged: its files overlap" in refusal(tmp_path / "x.zip")
