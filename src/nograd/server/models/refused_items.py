"""Items that `preprocess` rejected recently: they are rejected again without another call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nograd.caching import MemoryCache
from nograd.errors import ItemError, SignatureError

if TYPE_CHECKING:
    from nograd.caching.key_units import Texts
    from nograd.core.tensors import Batch
    from nograd.server.models.user_code import UserCode
    from nograd.server.telemetry.server_timing import Timing

__all__ = ["RefusedItemError", "RefusedItems"]

REFUSED_TTL_S = 30.0
"""Seconds for which an item that could not be prepared is rejected without another call."""

REFUSED_SHARE, REFUSED_BYTES = 100, 64 * 1024
"""Memory for rejected items: the cache's divided by the first number, and at least the second number."""

INPUT_ERRORS = (SignatureError, ValueError, TypeError)
"""Errors of `preprocess` that depend on the item; other errors may be temporary."""


class RefusedItemError(ItemError):
    """An item that could not be prepared. Requests that wait for the same item have it at different positions."""

    def __init__(self, reason: str, index: int, key: bytes) -> None:
        super().__init__(reason, index)
        self._key = key

    def as_of(self, keys: Sequence[bytes]) -> ItemError:
        """Return the error for a request with these keys."""
        index = keys.index(self._key) if self._key in keys else self.index
        error = ItemError(f"item {index}: {self}", index)
        error.__cause__ = self.__cause__
        return error


class RefusedItems:
    """Prepares texts, and stores those that `preprocess` rejected.

    Args:
        cache_bytes: size of the cache for answers.
    """

    def __init__(self, cache_bytes: int) -> None:
        self._reasons = MemoryCache(max(REFUSED_BYTES, cache_bytes // REFUSED_SHARE), policy="lru", ttl_s=REFUSED_TTL_S)
        self.count = 0
        """Number of items that were rejected without a call."""

    def check(self, keys: Sequence[bytes]) -> None:
        """Raise ItemError if one of the items was rejected recently."""
        for index, reason in enumerate(self._reasons.get_many(keys)):
            if reason is not None:
                self.count += 1
                raise ItemError(f"item {index}: {reason.decode()}", index)

    async def prepare(
        self, code: UserCode, texts: Texts, positions: Sequence[int], timeout_s: float, timing: Timing | None
    ) -> list[Batch]:
        """Prepare some texts in a thread, and return their parts.

        Raises:
            RefusedError: `preprocess` raised on one of them.
            NogradError: as `UserCode.prepare_by`.
        """
        try:
            taken = await code.prepare_by(lambda position: texts.take([position]), positions, timeout_s, timing)
        except ItemError as error:
            reason = str(error).removeprefix(f"item {error.index}: ")
            key = texts.keys[error.index]
            if isinstance(error.__cause__, INPUT_ERRORS):
                self._reasons.put(key, reason.encode("utf-8", "replace"))
            raise RefusedItemError(reason, error.index, key) from error.__cause__
        return [part for parts in taken for part in parts]
