"""Where models and data come from: packages that pip and apt fetch, unpacked into a cache folder outside the repository."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["AptUnavailable", "cached", "debian_files", "installed", "note", "package_folder", "sdist", "trained"]

MISSING = "{} is not installed; the benchmarks' models need: pip install {}"


class AptUnavailable(SystemExit):  # an end of the program with a reason, not an error of code
    """A Debian package cannot be fetched here; uncaught, it ends the program with what to do."""


def note(text: str) -> None:
    """Say what is going on, on stderr."""
    print(text, file=sys.stderr, flush=True)


def installed(module: str, pip_arguments: str) -> ModuleType:
    """Import a package that only benchmarks use, or end with the pip arguments that install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise SystemExit(MISSING.format(module, pip_arguments)) from None


def package_folder(module: str, pip_arguments: str) -> Path:
    """Return the folder of an installed package without running its code, which may need packages that the data do not."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise SystemExit(MISSING.format(module, pip_arguments))
    return Path(found.origin).parent


def cached(name: str, fill: Callable[[Path], None]) -> Path:
    """Return the cache's folder `name`; if it is not there, make it with `fill(folder)`. A failed `fill` leaves nothing behind.

    The cache is `$NOGRAD_BENCH_CACHE`, or `~/.cache/nograd-bench`.
    """
    cache = Path(os.environ.get("NOGRAD_BENCH_CACHE") or Path.home() / ".cache" / "nograd-bench")
    folder = cache / name
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{name}-", dir=cache) as temporary:
        new = Path(temporary) / name
        new.mkdir()
        fill(new)
        try:
            new.rename(folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    return folder


def trained(name: str, train: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return weights from the cache; if they are not there, train them with seed 0 and keep them."""

    def fill(folder: Path) -> None:
        note(f"{name}: training")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            save_file(dict(train()), folder / "model.safetensors")

    return load_file(cached(name, fill) / "model.safetensors")


def sdist(requirement: str, folder: Path) -> Path:
    """Download a package's source archive with pip, and return the one file."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", requirement]
    if subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode:
        raise SystemExit(f"pip cannot download the source of {requirement}; try: pip download --no-binary :all: {requirement}")
    (archive,) = folder.glob("*.tar.gz")
    return archive


def debian_files(package: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of every file in a Debian package, downloaded into `folder` and not installed.

    Raises:
        AptUnavailable: this is no Debian, or its archive cannot be reached.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise AptUnavailable(f"{package} is a Debian package; apt-get and dpkg-deb are not here to fetch and unpack it")
    note(f"{package}: downloading with apt-get")
    if subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, check=False).returncode:
        raise AptUnavailable(f"apt-get cannot download {package}; try: apt-get update && apt-get download {package}")
    (archive,) = folder.glob("*.deb")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as unpack:  # noqa: SIM117
        with tarfile.open(fileobj=unpack.stdout, mode="r|") as files:
            for member in files:
                content = files.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield member.name, content.read()
    archive.unlink()
