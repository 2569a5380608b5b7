"""Distributions of other packages that offer backends: folders that importlib.metadata takes for installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "howto" / "write-a-backend.md"

PLAIN = PAGE.read_text("utf-8").partition("```python\n")[2].partition("```")[0]
"""The module `nograd_plain` as the documentation shows it."""


def install(folder: Path, distribution: str, entries: Mapping[str, str], modules: Mapping[str, str]) -> Path:
    """Write a distribution into a folder for `sys.path`.

    Args:
        folder: the folder; it is made.
        distribution: its name; the version is 1.0.
        entries: entry points of the group `nograd.backends`: name -> `module:KIND`.
        modules: name of a module -> its source.
    """
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[nograd.backends]", *lines, ""]))
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    return folder


def install_plain(folder: Path) -> Path:
    """Install the distribution `nograd-plain` with the backend `plain`."""
    return install(folder, "nograd-plain", {"plain": "nograd_plain:KIND"}, {"nograd_plain": PLAIN})
