"""Read a folder of images: one record per file, in the order of their names, decoded with pillow (extra: images)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nograd.core.tensors import Array
from nograd.datasets.identity import digest
from nograd.datasets.records import InputPosition, Reader, Record
from nograd.errors import MissingExtraError

__all__ = ["ENDINGS", "FILE", "IMAGE", "Images"]

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

FILE = "file"
"""Column of the file name, relative to the folder."""

IMAGE = "image"
"""Column of the pixels: uint8 `[height, width, 3]`, RGB, at the stored size."""


class Images(Reader):
    """Read the images in a folder and its subfolders; other files and hidden ones are ignored."""

    word = "image"
    columns = (FILE, IMAGE)
    hidden = frozenset((IMAGE,))

    def __init__(self, folder: Path) -> None:
        try:
            import PIL.Image
        except ImportError:
            raise MissingExtraError("pillow", "images") from None
        self._open = PIL.Image.open
        self._folder = folder
        self._names = sorted(
            name.as_posix()
            for path in folder.rglob("*")
            if path.suffix.lower() in ENDINGS and path.is_file()
            for name in [path.relative_to(folder)]
            if not any(part.startswith(".") for part in name.parts)
        )

    def read(self, after: InputPosition) -> Iterator[Record]:
        for number, name in enumerate(self._names[after.number :], start=after.number + 1):
            try:
                pixels = self._pixels(name)
            except Exception as error:  # noqa: BLE001  a decoder raises any error for an invalid file; the row reports it
                yield Record(InputPosition(number), 0, {}, {FILE: name}, f"it cannot be decoded: {error}")
                continue
            yield Record(InputPosition(number), pixels.nbytes, {FILE: name, IMAGE: pixels}, {FILE: name})

    def _pixels(self, name: str) -> Array:
        with self._open(self._folder / name) as image:
            return np.array(image.convert("RGB"))

    def fraction(self, place: InputPosition) -> float | None:
        return place.number / len(self._names) if self._names else None

    def identity(self) -> dict[str, str]:
        found = [(name, (self._folder / name).stat()) for name in self._names]
        listed = "\n".join(f"{name} {state.st_size} {state.st_mtime_ns}" for name, state in found)
        return {"images": f"{len(self._names)}", "names, sizes and times": digest(listed.encode())}
