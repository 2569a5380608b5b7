"""Notices that a module is not what it was: tensors, settings, hooks or children that were changed or replaced.

It is quick, because every answer that is kept asks: identities and version counters are compared, not contents. What leaves
those alone, a write through `tensor.data` or through numpy, is looked for at a few places of each tensor: an optimizer, an
average or a load that writes that way is seen; a write to single elements need not be, and on a GPU none is.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from operator import is_not
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Watch"]

SAMPLED = 8
"""Elements of each tensor that are compared, about, evenly spaced."""

MOST_SETTINGS = 256
"""Entries of a dict or an object beside the module; of larger ones, such as vocabularies, only the number is looked at."""

_GONE = object()

_Table: TypeAlias = Mapping[Any, Any]


@dataclass(frozen=True, slots=True)
class _Settings:
    """Values by name in some tables, as they were seen."""

    places: Sequence[tuple[_Table, Sequence[Any]]]
    tables: Sequence[_Table]
    seen: Sequence[Any]
    sizes: Sequence[int]

    def now(self) -> tuple[list[Any], list[int]]:
        """Return the values and the numbers of entries as they are."""
        values = [table.get(name, _GONE) for table, names in self.places for name in names]
        return values, list(map(len, self.tables))

    def without(self, before: tuple[list[Any], list[int]], after: tuple[list[Any], list[int]]) -> _Settings:
        """Return them without those that became others between two looks; what had changed before stays to be told."""
        left = [one is other for one, other in zip(before[0], after[0], strict=True)]
        flags = iter(left)
        places = [(table, [name for name in names if next(flags)]) for table, names in self.places]
        seen = [value for value, stays in zip(self.seen, left, strict=True) if stays]
        sizes = [size + new - old for size, old, new in zip(self.sizes, before[1], after[1], strict=True)]
        return _Settings(places, self.tables, seen, sizes)


class Watch:
    """Remembers how a module is now.

    Seen are parameters, buffers, children, forward hooks and attributes, and, one level deep, what those attributes hold that
    are dicts or plain objects, such as a configuration. What changes while the module runs is its own note, and left out.

    Args:
        model: the module.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = list(model.modules())  # kept: what is identical to it later is it
        self._holders: list[Mapping[str, Tensor | None]] = []
        self._tables: list[_Table] = []
        for module in self._modules:
            self._holders += (module._parameters, module._buffers)  # noqa: SLF001
            self._tables += (module._modules, module._forward_pre_hooks, module._forward_hooks)  # noqa: SLF001
        self._samples = [sample for tensor in self._tensors() if (sample := _sample(tensor)) is not None]
        self._seen = self._look()
        self._settings = _settings(self._modules)
        self._lock = Lock()

    def changed(self) -> bool:
        """True where something is not what it was."""
        settings = self._settings
        values, sizes = settings.now()
        if sizes != settings.sizes or _differ(values, settings.seen):
            return True
        (things, contents), (seen_things, seen_contents) = self._look(), self._seen
        return contents != seen_contents or _differ(things, seen_things)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within this context the module runs: settings that change meanwhile are not looked at any more."""
        settings = self._settings
        before = settings.now()
        yield
        after = settings.now()
        if before[1] != after[1] or _differ(before[0], after[0]):
            with self._lock:
                if self._settings is settings:
                    self._settings = settings.without(before, after)

    def _tensors(self) -> list[Tensor]:
        return [tensor for holder in self._holders if holder for tensor in holder.values() if tensor is not None]

    def _look(self) -> tuple[list[Any], list[Any]]:
        """Return what is compared by identity, and what by content."""
        tensors = self._tensors()
        things = [value for table in self._tables if table for value in table.values()]
        versions = [0 if tensor.is_inference() else tensor._version for tensor in tensors]  # noqa: SLF001
        return [*things, *tensors], [*versions, *_pointers(tensors), *[sample.tobytes() for sample in self._samples]]


def _pointers(tensors: Sequence[Tensor]) -> list[int]:
    try:
        return [tensor.data_ptr() for tensor in tensors]
    except RuntimeError:  # sparse ones have no storage of their own
        return [tensor.data_ptr() for tensor in tensors if tensor.layout == torch.strided]


def _differ(now: Sequence[Any], seen: Sequence[Any]) -> bool:
    return len(now) != len(seen) or any(map(is_not, now, seen))


@cache
def _common() -> frozenset[str]:
    """Return the attributes that every module has: mode, tensors, children, hooks."""
    return frozenset(vars(nn.Module()))


def _settings(modules: Sequence[nn.Module]) -> _Settings:
    """Return the modules' attributes, and what lies in those that are dicts or plain objects."""
    places: list[tuple[_Table, Sequence[Any]]] = []
    within: dict[int, _Table] = {}
    for module in modules:
        table = vars(module)
        names = [name for name in table if name not in _common()]
        places.append((table, names))
        within.update((id(inner), inner) for name in names if (inner := _inside(table[name])) is not None)
    places += [(table, list(table) if len(table) <= MOST_SETTINGS else []) for table in within.values()]
    tables = [table for table, _ in places]
    return _Settings(places, tables, *_Settings(places, tables, [], []).now())


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


def _sample(tensor: Tensor) -> np.ndarray[Any, Any] | None:
    """Return a view of some of a tensor's elements; None where they do not lie open in this computer's memory."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided or not tensor.is_contiguous():
        return None
    if tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_conj() or tensor.is_neg() or not tensor.numel():
        return None
    elements = tensor.detach().reshape(-1).view(torch.uint8).numpy().reshape(tensor.numel(), tensor.element_size())
    found: np.ndarray[Any, Any] = elements[:: max(1, tensor.numel() // SAMPLED)]
    return found
