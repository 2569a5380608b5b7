"""Hypothesis' settings, and real servers for the tests that need one."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("nograd", deadline=None, derandomize=True)
settings.load_profile("nograd")
