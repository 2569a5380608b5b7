"""The attributes of a torch module that affect its answers, without torch's bookkeeping. torch is not imported here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["without_bookkeeping"]

_FORWARD_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)

_NOT_ANSWERS = frozenset(
    (
        "training",  # nograd runs every module in eval mode
        "_backward_pre_hooks",
        "_backward_hooks",
        "_is_full_backward_hook",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
    )
)

_RNN_CACHE = ("_flat_weight_refs", "_flat_weights")
"""torch.nn.RNNBase stores its weights a second time, with weak references to detect replaced ones."""


def without_bookkeeping(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that affect answers in eval mode.

    Hooks are numbered by order instead of by torch's number, which counts across the process.

    Args:
        state: `vars(module)`.
    """
    kept = {name: value for name, value in state.items() if name not in _NOT_ANSWERS}
    tables: dict[str, Mapping[Any, Any]] = {name: kept[name] for name in _FORWARD_HOOKS if name in kept}
    numbers = dict.fromkeys(number for table in tables.values() for number in table)
    places = {number: place for place, number in enumerate(numbers)}
    kept |= {name: [(places[number], hook) for number, hook in table.items()] for name, table in tables.items()}
    if all(name in state for name in (*_RNN_CACHE, "_flat_weights_names")):
        kept.pop("_flat_weight_refs")
        if not _runs_on_other_weights(state):
            kept.pop("_flat_weights")
    return kept


def _runs_on_other_weights(state: Mapping[str, Any]) -> bool:
    """Return whether an RNN would run on stored weights that are not its attributes; torch stores them again after a
    replacement.
    """
    own = [state.get(name, state["_parameters"].get(name)) for name in state["_flat_weights_names"]]
    seen = [None if ref is None else ref() for ref in state["_flat_weight_refs"]]
    if len(own) != len(seen) or any(one is None or one is not other for one, other in zip(own, seen, strict=True)):
        return False
    return any(one is not other for one, other in zip(own, state["_flat_weights"], strict=True))
