"""Families of checks. The command line reads them at its start, so this module imports nothing."""

__all__ = ["FAMILIES"]

FAMILIES = (
    "mode", "gradients", "devices", "batching", "caching", "optimisation", "precision", "memory", "warmup", "errors", "serving",
)  # fmt: skip
"""Families of checks."""
