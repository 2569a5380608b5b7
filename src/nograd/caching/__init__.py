"""Caching: answers as bytes, by a key of everything that they depend on.

A key is made of the model's fingerprint and of the input's content (`keys`), so that a value can never be an old one or
another model's. Values are arrays as bytes (`codec`), never pickles: what is read back is data, and who gets it cannot change
it.
"""

from nograd.caching.codec import decode, encode
from nograd.caching.keys import Keys
from nograd.caching.memory import MemoryCache
from nograd.caching.store import Cache, CacheStatistics

__all__ = ["Cache", "CacheStatistics", "Keys", "MemoryCache", "decode", "encode"]
