"""A page for each module with public names; mkdocstrings fills it from the docstrings."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import nograd
from scripts.reference.tables import MADE

__all__ = ["homes", "names"]

ABOUT = {
    "backends": "What runs a model: eager, compiled, exported",
    "batcher": "Concurrent requests in one process",
    "batching": "How requests are batched",
    "bulk": "Over a data set",
    "bundle": "What tuning writes",
    "cached": "Predictors that remember",
    "caching": "Where answers are kept",
    "checks": "The deployment checklist",
    "client": "A client of any server of the protocol",
    "cost": "What a run costs by its size",
    "errors": "The base of all errors",
    "parity": "How closely two sets of answers agree",
    "predictor": "A model that answers",
    "presets": "Predictors for one purpose each",
    "probing": "What a model takes",
    "sources": "A model by its name",
    "tensors": "Names, dtypes and shapes",
    "transforms": "Less memory, lower precision",
    "tuning": "The fastest way to run it here",
}
"""Module -> what it is for."""

GROUPS = ("core", "predictors")
"""Folders whose modules have a page each."""

ALIASES = {"Batch": "nograd.core.tensors"}
"""Public names of types that do not know where they are from."""


def homes() -> dict[str, list[tuple[str, str]]]:
    """Return the public names by the module that they belong to, each with its whole path; the version is none of these."""
    found = defaultdict(list)
    for name in nograd.__all__:
        value: Any = getattr(nograd, name)
        module = ALIASES.get(name, "") or str(getattr(value, "__module__", ""))
        if module.startswith("nograd."):
            _, folder, *rest = module.split(".")
            found[rest[0] if folder in GROUPS else folder].append((name, f"{module}.{name}"))
    return dict(found)


def names() -> dict[str, str]:
    """Return the pages by their paths."""
    return {f"python/{module}.md": _page(module, members) for module, members in sorted(homes().items())}


def _page(module: str, members: list[tuple[str, str]]) -> str:
    blocks = "".join(f"\n::: {path}\n" for _, path in members)
    return f"{MADE}\n# {ABOUT[module]}\n\n`from nograd import {', '.join(name for name, _ in members)}`\n{blocks}"
