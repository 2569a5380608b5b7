"""Tune a model: build every way to run it, compare each with eager, measure them here, and write the best one as a bundle."""

from typing import TYPE_CHECKING

from nograd.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from nograd.tuning.api import Tuned, tune

__all__ = ["Tuned", "tune"]

# `nograd.tuning.footprint` measures the memory of its own process, which must not import the tuner
__getattr__, __dir__ = lazy_names(__name__, {"Tuned": "api", "tune": "api"})
