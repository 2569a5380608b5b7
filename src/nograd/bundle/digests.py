"""SHA256SUMS: digests of a folder's files in the format of coreutils, and the check of a folder against them.

To check a bundle without nograd, run `sha256sum -c SHA256SUMS` in its folder.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path

from nograd.errors import ModelLoadError

__all__ = ["SUMS", "BundleFile", "digest_of", "read_sums", "verify_files", "write_sums"]

SUMS = "SHA256SUMS"

MAX_SUMS_BYTES = 1 << 20
"""Maximum size of the list. A bundle has about a dozen files, so a larger list is invalid."""

LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*)")
"""One line: digest and file name. Names are restricted to characters that need no escaping and read the same on all systems."""

WORKERS = 4


@dataclass(frozen=True, slots=True)
class BundleFile:
    """A verified file of a bundle."""

    name: str
    """Path relative to the bundle, separated by `/`."""

    size_bytes: int
    sha256: str


def write_sums(folder: Path) -> None:
    """Write the digests of all files in a folder, except the list itself."""
    names = sorted(name for name in _names_in(folder) if name != SUMS)
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines), "ascii")


def read_sums(text: bytes, where: str) -> dict[str, str]:
    """Parse a list of digests: file name -> SHA-256 in lower-case hexadecimal.

    Args:
        text: content of `SHA256SUMS`.
        where: name of the bundle in error messages.

    Raises:
        ModelLoadError: a line is malformed, or names a file outside of the folder, the list itself, or a file twice.
    """
    found: dict[str, str] = {}
    *lines, rest = text.decode("latin-1").split("\n")
    for number, line in enumerate([*lines, rest] if rest else lines, start=1):
        matched = LINE.fullmatch(line)
        if matched is None or rest:
            raise ModelLoadError(f"{where} is damaged: line {number} of {SUMS} is not a digest and the name of a file")
        name = matched[2]
        if name == SUMS or name in found or any(part in (".", "..") for part in name.split("/")):
            raise ModelLoadError(f"{where} is damaged: line {number} of {SUMS} lists {name!r}, which cannot be in it")
        found[name] = matched[1]
    return found


def verify_files(folder: Path, where: str) -> tuple[BundleFile, ...]:
    """Return the files of a folder after comparing them with `SHA256SUMS`.

    Args:
        folder: the folder to verify.
        where: name of the bundle in error messages.

    Raises:
        ModelLoadError: a file is missing, unlisted, modified, or not a regular file; the message names it.
    """
    sums = read_sums(_sums_of(folder, where), where)
    check_names(_names_in(folder, where), sums, where)
    with ThreadPoolExecutor(min(WORKERS, len(sums) or 1)) as pool:  # hashing releases the GIL
        digests = list(pool.map(lambda name: _sha256(folder / name), sums))
    for (name, expected), digest in zip(sums.items(), digests, strict=True):
        if digest != expected:
            raise ModelLoadError(f"{where} is damaged: {name} is not the file that {SUMS} describes (its SHA-256 differs)")
    return tuple(BundleFile(name, (folder / name).stat().st_size, digest) for name, digest in sums.items())


def check_names(names: Iterable[str], sums: Mapping[str, str], where: str) -> None:
    """Raise ModelLoadError unless the folder and the list contain the same names."""
    there = set(names)
    for name in sorted(sums.keys() - there):
        raise ModelLoadError(f"{where} is damaged: {name} is missing, which {SUMS} lists")
    for name in sorted(there - sums.keys() - {SUMS}):
        raise ModelLoadError(f"{where} contains {name}, which {SUMS} does not list; remove it, or fetch the bundle again")


def digest_of(files: Iterable[BundleFile]) -> str:
    """Return one digest over files whose digests are known."""
    return sha256("".join(f"{file.sha256}  {file.name}\n" for file in files).encode()).hexdigest()


def _sums_of(folder: Path, where: str) -> bytes:
    path = folder / SUMS
    if not path.exists():
        raise ModelLoadError(f"{where} is not a bundle: it contains no {SUMS}")
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_SUMS_BYTES:
        raise ModelLoadError(f"{where} is damaged: {SUMS} is not a list of digests")
    return path.read_bytes()


def _names_in(folder: Path, where: str = "") -> list[str]:
    """Return the names of all files below a folder; raise ModelLoadError for links and devices."""
    found = []
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(base, name)
            relative = path.relative_to(folder).as_posix()
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "no file"
                raise ModelLoadError(f"{where or folder}: {relative} is {kind}; a bundle contains only files")
            if stat.S_ISREG(mode):
                found.append(relative)
    return found


def _sha256(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:  # noqa: PTH123  a descriptor, not a path
        return file_digest(file, "sha256").hexdigest()
