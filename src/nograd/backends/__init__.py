"""Backends: a module for each way to run a batch. Their interface is `Backend`."""

from nograd.backends.backend import Backend, TorchBackend, check_lanes
from nograd.backends.file_fingerprint import FileFingerprint

__all__ = ["Backend", "FileFingerprint", "TorchBackend", "check_lanes"]
