"""The fingerprint of a model that was loaded from files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from nograd.runtime.fingerprint import Fingerprint, of_files, of_object, of_value
from nograd.runtime.threads import in_own_thread

__all__ = ["FileFingerprint"]


class FileFingerprint:
    """The fingerprint of a model that was loaded from files. A thread reads them during the load: 90 MB take 0.1 s.

    Args:
        path: the file.
        weights: returns the other files that belong to the model; called in the thread.
        known: a digest of all files that was computed before; the files are then not read.
    """

    def __init__(self, path: Path, weights: Callable[[Path], Sequence[Path]] | None = None, *, known: str = "") -> None:
        self._digest = in_own_thread(partial(_digest, path, weights)) if not known else _done(known)
        self._found: Fingerprint | None = None

    def of(self, *runtime: str) -> Fingerprint:
        """Return the fingerprint for a runtime: its name, version, device, ..."""
        if self._found is None:
            self._found = self._read(runtime)
        return self._found

    def _read(self, runtime: tuple[str, ...]) -> Fingerprint:
        try:
            return of_value(self._digest.result(), *runtime)
        except (OSError, ValueError) as error:
            return Fingerprint(of_object().text, f"its files could not be read a second time: {error}")


def _digest(path: Path, weights: Callable[[Path], Sequence[Path]] | None) -> str:
    return of_files(path, *(weights(path) if weights is not None else ()))


def _done(digest: str) -> Future[str]:
    found: Future[str] = Future()
    found.set_result(digest)
    return found
