"""A model's output structure: flatten it to named leaves, and restore it.

    tensor                        -> {"output": t}
    (t0, t1)                      -> {"output_0": t0, "output_1": t1}
    {"logits": t, "aux": (u, v)}  -> {"logits": t, "aux.0": u, "aux.1": v}

Supported containers are dicts, tuples, lists, named tuples, dataclasses and transformers' ModelOutput; None is kept. All other
values, such as numbers or the key-value cache of a language model, belong to a run and not to a row. They are replaced by None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from nograd.errors import SignatureError

Leaves: TypeAlias = dict[str, Any]
Restore: TypeAlias = Callable[[Mapping[str, Any]], Any]
"""Restores the flattened structure from leaves by name."""

Outline: TypeAlias = Any
"""A structure as plain JSON: a leaf is its name, None is null, containers are `{"tuple": [...]}`, `{"list": [...]}` and
`{"dict": [[key, child], ...]}`.
"""

__all__ = ["Leaves", "Outline", "Restore", "flatten", "left_out", "outline", "restore_from"]


def flatten(value: Any, is_leaf: Callable[[Any], bool]) -> tuple[Leaves, Restore]:
    """Flatten a nested value. Return its leaves by name, and the function that restores the structure from leaves.

    Args:
        value: a leaf, or nested containers of leaves; other values become None (see `left_out`).
        is_leaf: returns True for a tensor.

    Raises:
        SignatureError: there are no leaves.
    """
    if is_leaf(value):
        return {"output": value}, lambda leaves: leaves["output"]
    leaves: Leaves = {}
    restore = _walk(value, "", leaves, is_leaf)
    if not leaves:
        raise SignatureError(f"the model returned {type(value).__name__} without a tensor in it; it must return at least one")
    return leaves, restore


def left_out(value: Any, is_leaf: Callable[[Any], bool]) -> dict[str, str]:
    """Return the type names of the entries that `flatten` replaces by None, by entry name."""
    return dict(_left_out(value, "", is_leaf))


def _left_out(value: Any, path: str, is_leaf: Callable[[Any], bool]) -> Iterator[tuple[str, str]]:
    if value is None or is_leaf(value):
        return
    children = _open(value)
    if children is None:
        yield path or "output", type(value).__name__
    else:
        for key, child in children[0]:
            yield from _left_out(child, _join(path, key), is_leaf)


def _is_left_out(value: Any, is_leaf: Callable[[Any], bool]) -> bool:
    """Return whether a container has no leaf and an unsupported entry. Its class may not accept None for that entry."""
    return bool(left_out(value, is_leaf)) and not _holds_leaf(value, is_leaf)


def _holds_leaf(value: Any, is_leaf: Callable[[Any], bool]) -> bool:
    opened = None if value is None or is_leaf(value) else _open(value)
    return is_leaf(value) if opened is None else any(_holds_leaf(child, is_leaf) for _, child in opened[0])


def outline(value: Any, is_leaf: Callable[[Any], bool]) -> Outline:
    """Return the structure of a value for `flatten` as plain JSON.

    Dicts, tuples and lists keep their type. Dataclasses, named tuples and other mappings become dicts by field name, because
    their classes are code.
    """
    return "output" if is_leaf(value) else _outlined(value, "", is_leaf)


def _outlined(value: Any, path: str, is_leaf: Callable[[Any], bool]) -> Outline:
    if is_leaf(value):
        return path
    opened = None if value is None else _open(value)
    if opened is None or _is_left_out(value, is_leaf):
        return None
    children = [(key, _outlined(child, _join(path, key), is_leaf)) for key, child in opened[0]]
    if type(value) in (tuple, list):
        return {type(value).__name__: [child for _, child in children]}
    return {"dict": [[key if isinstance(key, int) else str(key), child] for key, child in children]}


def restore_from(plan: Outline) -> Restore:
    """Return the function that puts leaves by name into the structure of an `outline`."""
    if plan is None:
        return lambda _: None
    if isinstance(plan, str):
        return lambda leaves: leaves[plan]
    ((kind, children),) = plan.items()
    if kind == "dict":
        entries = [(key, restore_from(child)) for key, child in children]
        return lambda leaves: {key: part(leaves) for key, part in entries}
    parts = [restore_from(child) for child in children]
    return lambda leaves: (tuple if kind == "tuple" else list)(part(leaves) for part in parts)


def _walk(value: Any, path: str, leaves: Leaves, is_leaf: Callable[[Any], bool]) -> Restore:
    if is_leaf(value):
        if path in leaves:
            raise SignatureError(f"two outputs of the model are named {path!r}; rename one of the keys that lead to them")
        leaves[path] = value
        return lambda given: given[path]
    opened = None if value is None else _open(value)
    if opened is None:
        return lambda _: None
    keys, rebuild = opened
    num_leaves = len(leaves)
    parts = [(key, _walk(child, _join(path, key), leaves, is_leaf)) for key, child in keys]
    if len(leaves) == num_leaves and left_out(value, is_leaf):  # the class may not accept None for unsupported entries
        return lambda _: None
    return lambda given: rebuild({key: part(given) for key, part in parts})


def _join(path: str, key: Any) -> str:
    if path:
        return f"{path}.{key}"
    return f"output_{key}" if isinstance(key, int) else str(key)


def _open(value: Any) -> tuple[list[tuple[Any, Any]], Callable[[dict[Any, Any]], Any]] | None:
    """Return a container's children by key, and a function that builds the container from them; None for other values."""
    kind = type(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # before Mapping: a transformers ModelOutput is both, and its absent fields are None
        fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value) if field.init]
        return fields, lambda children: kind(**children)
    if isinstance(value, Mapping):
        return list(value.items()), kind if kind is dict else _mapping_builder(kind)
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return list(zip(kind._fields, value, strict=True)), lambda children: kind(**children)
    if isinstance(value, tuple | list):
        return list(enumerate(value)), lambda children: kind(tuple(children.values()))
    return None


def _mapping_builder(kind: type) -> Callable[[dict[Any, Any]], Any]:
    def build(children: dict[Any, Any]) -> Any:
        return kind(**children) if all(isinstance(key, str) for key in children) else kind(children)

    return build
