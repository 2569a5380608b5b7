"""Detects changes of a module: tensors, settings, hooks or children that were changed or replaced.

Every cached answer needs a check, so the check must be fast: it compares identities, version counters and addresses, not
contents, in flat lists that C code iterates over. A write through `tensor.data` or through numpy changes none of these, so a
few elements of each tensor are compared as well. This detects an optimizer, an average or a load that writes in this way. It
may miss a write to single elements, and it detects no such write on a GPU.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain, compress
from operator import attrgetter, getitem, is_, is_not, methodcaller
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["ChangeWatch"]

SAMPLED = 8
"""Approximate number of elements of each tensor that are compared, evenly spaced."""

MOST_SETTINGS = 256
"""Maximum entries of a dict or object that are compared. Of larger ones, such as vocabularies, only the number is compared."""

_GONE = object()

_Table: TypeAlias = Mapping[Any, Any]

_Elements: TypeAlias = np.ndarray[Any, np.dtype[np.void]]


@dataclass(frozen=True, slots=True)
class _Settings:
    """Snapshot of named values in some tables."""

    tables: Sequence[_Table]
    """The table of each value."""

    names: Sequence[Any]
    """The name of each value in its table."""

    counted: Sequence[_Table]
    """Tables whose number of entries is compared."""

    seen: Sequence[Any]
    sizes: Sequence[int]

    @classmethod
    def of(cls, places: Sequence[tuple[_Table, Sequence[Any]]]) -> _Settings:
        """Return a snapshot of the settings, given the names in each table."""
        tables, names = [table for table, some in places for _ in some], [name for _, some in places for name in some]
        made = cls(tables, names, [table for table, _ in places], [], [])
        return cls(tables, names, made.counted, *made.now())

    def now(self) -> tuple[list[Any], list[int]]:
        """Return the current values and numbers of entries."""
        try:
            values = list(map(getitem, self.tables, self.names))
        except KeyError:
            values = [table.get(name, _GONE) for table, name in zip(self.tables, self.names, strict=True)]
        return values, list(map(len, self.counted))

    def differ(self) -> bool:
        """Return whether a value or a number of entries has changed."""
        values, sizes = self.now()
        return sizes != self.sizes or any(map(is_not, values, self.seen))

    def without(self, before: tuple[list[Any], list[int]], after: tuple[list[Any], list[int]]) -> _Settings:
        """Return the settings without those that changed between two snapshots. A change before the first is still detected."""
        left = list(map(is_, before[0], after[0]))
        tables, names, seen = (list(compress(each, left)) for each in (self.tables, self.names, self.seen))
        sizes = [size + new - old for size, old, new in zip(self.sizes, before[1], after[1], strict=True)]
        return _Settings(tables, names, self.counted, seen, sizes)


class ChangeWatch:
    """Remembers the state of a module.

    It compares parameters, buffers, children, forward hooks and attributes, and, one level deep, the contents of attributes
    that are dicts or plain objects, such as a configuration. Settings that the module itself changes while it runs are ignored.

    Args:
        model: the module.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(model.modules())  # kept alive, so that no other object gets their identities
        tables: list[_Table] = []
        for module in self._modules:
            tables += (module._parameters, module._buffers, module._modules)  # noqa: SLF001
            tables += (module._forward_pre_hooks, module._forward_hooks)  # noqa: SLF001
        self._full = [table for table in tables if table]
        self._empty = [table for table in tables if not table]
        self._things = self._now()
        tensors = [thing for thing in self._things if isinstance(thing, Tensor)]
        self._counted = [tensor for tensor in tensors if not tensor.is_inference()]
        self._placed = list(filter(_has_address, tensors))
        self._samples = _samples(tensors)
        self._contents = self._read_contents()
        self._settings = _settings(self._modules)
        self._lock = Lock()

    def changed(self) -> bool:
        """Return whether anything differs from the remembered state."""
        if self._settings.differ() or any(self._empty):
            return True
        now, things = self._now(), self._things
        if len(now) != len(things) or any(map(is_not, now, things)):
            return True
        return self._read_contents() != self._contents

    @contextmanager
    def running(self) -> Iterator[None]:
        """Return a context in which the module runs. Settings that it changes there are not compared any more."""
        settings = self._settings
        before = settings.now()
        yield
        after = settings.now()
        if before[1] != after[1] or any(map(is_not, before[0], after[0])):
            with self._lock:
                if self._settings is settings:
                    self._settings = settings.without(before, after)

    def _now(self) -> list[Any]:
        """Return the tensors, children and hooks: they are compared by identity."""
        return [*chain.from_iterable(map(_values, self._full))]

    def _read_contents(self) -> tuple[list[int], list[int], list[bytes]]:
        """Return version counters, addresses and some elements: they are compared by content."""
        samples = [np.concatenate(group).tobytes() for group in self._samples]
        return list(map(_version, self._counted)), list(map(_address, self._placed)), samples


_values, _version = methodcaller("values"), attrgetter("_version")
_address = Tensor.data_ptr


def _has_address(tensor: Tensor) -> bool:
    """Return whether the tensor has a storage; sparse tensors have none."""
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True


@cache
def _common() -> frozenset[str]:
    """Return the names of the attributes that every module has: mode, tensors, children, hooks."""
    return frozenset(vars(nn.Module()))


def _settings(modules: Sequence[nn.Module]) -> _Settings:
    """Return the modules' attributes, and the contents of those that are dicts or plain objects."""
    places: list[tuple[_Table, Sequence[Any]]] = []
    within: dict[int, _Table] = {}
    for module in modules:
        table = vars(module)
        names = [name for name in table if name not in _common()]
        places.append((table, names))
        within.update((id(inner), inner) for name in names if (inner := _inside(table[name])) is not None)
    places += [(table, list(table) if len(table) <= MOST_SETTINGS else []) for table in within.values()]
    return _Settings.of(places)


def _inside(value: Any) -> _Table | None:
    """Return the entries of a dict, or the attributes of an object that is neither code nor a module nor a tensor."""
    if type(value) is dict:
        return value
    if isinstance(value, nn.Module | Tensor | type | types.FunctionType | types.ModuleType):
        return None
    try:
        attributes: _Table = vars(value)
    except TypeError:
        return None
    return attributes


def _samples(tensors: Sequence[Tensor]) -> list[list[_Elements]]:
    """Return views of some elements of each tensor, grouped by size, so that one call copies a whole group."""
    groups: dict[int, list[_Elements]] = {}
    for tensor in tensors:
        if (sample := _sample(tensor)) is not None:
            groups.setdefault(sample.itemsize, []).append(sample)
    return list(groups.values())


def _sample(tensor: Tensor) -> _Elements | None:
    """Return a view of some of a tensor's elements; None if they cannot be read directly from the host's memory."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided or not tensor.is_contiguous():
        return None
    if tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_conj() or tensor.is_neg() or not tensor.numel():
        return None
    elements = tensor.detach().reshape(-1).view(torch.uint8).numpy().view(f"V{tensor.element_size()}")
    return elements[:: max(1, tensor.numel() // SAMPLED)]
