"""Caching of model outputs as bytes, by a key of everything that they depend on.

A key is made of the model's fingerprint and the input's content (`keys`), so that a cached value never belongs to another model
or older weights. Values are arrays encoded as bytes (`codec`), never pickles: reading them executes nothing, and callers cannot
change them.
"""

from nograd.caching.codec import decode, encode
from nograd.caching.keys import Keys
from nograd.caching.memory import MemoryCache
from nograd.caching.store import Cache, CacheStatistics

__all__ = ["Cache", "CacheStatistics", "Keys", "MemoryCache", "decode", "encode"]
