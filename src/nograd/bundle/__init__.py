"""Bundle: a folder, or a `.zip`, that holds a tuned model and all that running it needs; written whole, verified when read.

    bundle.json          what it is, how it runs, what was measured, and where (`manifest`)
    model.*              an exported file; or model/ (a transformers folder); or weights.safetensors, for a factory (`source`)
    tokenizer.json       where items are texts (`front`)
    example.safetensors  an example item, where it is no plain JSON
    report.json, .html   of the tuning
    SHA256SUMS           of all files above (`digests`)

Nothing here imports torch, but for a bundle whose backend is torch's.
"""

from nograd.bundle.digests import BundleFile
from nograd.bundle.manifest import Curve, Settings
from nograd.bundle.pipeline import Front
from nograd.bundle.reading import Bundle, is_bundle
from nograd.bundle.source import ExportedFile, ModelFactory, ModelFolder
from nograd.bundle.writing import check_target, write_bundle

__all__ = [
    "Bundle",
    "BundleFile",
    "Curve",
    "ExportedFile",
    "Front",
    "ModelFactory",
    "ModelFolder",
    "Settings",
    "check_target",
    "is_bundle",
    "write_bundle",
]
