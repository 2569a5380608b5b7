"""Bundle: a folder or `.zip` file that holds a tuned model and everything needed to run it.

Bundles are written atomically and verified when they are read.

    bundle.json          description: model, settings, measurements, machine (`manifest`)
    model.*              an exported file; or model/ (a transformers folder); or weights.safetensors, for a factory (`source`)
    tokenizer.json       for models whose items are texts (`pipeline`)
    example.safetensors  an example item, if it cannot be plain JSON
    report.json, .html   tuning report
    SHA256SUMS           digests of all other files (`digests`)

This package does not import torch, except for bundles that run on a torch backend.
"""

from nograd.bundle.digests import BundleFile
from nograd.bundle.manifest import BundleSettings, Curve
from nograd.bundle.pipeline import Pipeline
from nograd.bundle.reading import Bundle, is_bundle
from nograd.bundle.source import ExportedFile, ModelFactory, ModelFolder
from nograd.bundle.writing import check_target, write_bundle

__all__ = [
    "Bundle",
    "BundleFile",
    "BundleSettings",
    "Curve",
    "ExportedFile",
    "ModelFactory",
    "ModelFolder",
    "Pipeline",
    "check_target",
    "is_bundle",
    "write_bundle",
]
