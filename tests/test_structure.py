"""Flattening a model's output to named leaves, and giving leaves back in its structure."""

from __future__ import annotations

import json
from collections import OrderedDict, UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nograd.core.inputs import is_tensor
from nograd.core.structure import flatten, left_out, outline, restore_from
from nograd.errors import SignatureError


class Pair(NamedTuple):
    mean: Any
    peak: Any


@dataclass(frozen=True)
class Scored:
    scores: Any
    extra: Any = None


def is_number(value: object) -> bool:
    return isinstance(value, int)


def grow(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.text("abc", min_size=1, max_size=3)
    return st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.dictionaries(names, children, max_size=3),
        st.dictionaries(names, children, max_size=3).map(OrderedDict),
        st.builds(Pair, children, children),
        st.builds(Scored, children, children),
    )


def plain(value: Any) -> Any:
    """What a file can hold of it: classes become dicts."""
    if isinstance(value, Pair):
        return {key: plain(child) for key, child in value._asdict().items()}
    if isinstance(value, Scored):
        return {"scores": plain(value.scores), "extra": plain(value.extra)}
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    return type(value)(map(plain, value)) if isinstance(value, tuple | list) else value


NESTED = st.recursive(st.integers() | st.none(), grow, max_leaves=12)


@given(NESTED)
def test_leaves_go_back_to_where_they_were_in_any_nesting(value: Any) -> None:
    try:
        leaves, restore = flatten(value, is_number)
    except SignatureError as error:
        assert "without a tensor in it" in str(error)  # noqa: PT017  a nesting of nothing
        return

    again, _ = flatten(restore(leaves), is_number)

    assert restore(leaves) == value
    assert type(restore(leaves)) is type(value)
    written = json.loads(json.dumps(outline(value, is_number)))
    assert restore_from(written)(leaves) == plain(value)
    assert again == leaves


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (1, ["output"]),
        ((1, 2), ["output_0", "output_1"]),
        ([1, [2, 3]], ["output_0", "output_1.0", "output_1.1"]),
        ({"logits": 1, "aux": (2, None, 3)}, ["logits", "aux.0", "aux.2"]),
        ({7: 1}, ["output_7"]),
        (Pair(1, {"at": 2}), ["mean", "peak.at"]),
        (Scored([1, Scored(2)]), ["scores.0", "scores.1.scores"]),
    ],
)
def test_names_say_where_a_leaf_was(value: Any, names: list[str]) -> None:
    assert list(flatten(value, is_number)[0]) == names


def test_other_leaves_fill_the_same_structure() -> None:
    _, restore = flatten({"a": (1, None), "b": [2]}, is_number)

    assert restore({"a.0": "x", "b.0": "y"}) == {"a": ("x", None), "b": ["y"]}


@pytest.mark.parametrize("output", [torch.max(torch.ones(2, 3), 1), UserDict(logits=torch.ones(2))])
def test_torchs_own_result_types_and_other_mappings_keep_their_kind(output: Any) -> None:
    leaves, restore = flatten(output, is_tensor)
    again, _ = flatten(restore(leaves), is_tensor)

    assert type(restore(leaves)) is type(output)
    assert all(again[name] is leaf for name, leaf in leaves.items())


def test_a_models_output_of_transformers_comes_back_with_its_absent_fields() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    given_output = outputs.BaseModelOutputWithPooling(last_hidden_state=torch.ones(2, 3), hidden_states=(torch.zeros(2),))

    leaves, restore = flatten(given_output, is_tensor)
    restored = restore({name: leaf.numpy() for name, leaf in leaves.items()})

    assert list(leaves) == ["last_hidden_state", "hidden_states.0"]
    assert type(restored) is outputs.BaseModelOutputWithPooling
    assert restored.pooler_output is None
    assert restored.hidden_states[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "the model returned NoneType without a tensor in it; it must return at least one"),
        ((), "the model returned tuple without a tensor in it; it must return at least one"),
        ("text", "the model returned str without a tensor in it; it must return at least one"),
        ({"a": {"b": 1.5}}, "the model returned dict without a tensor in it; it must return at least one"),
        ({"a.b": 1, "a": {"b": 2}}, "two outputs of the model are named 'a.b'; rename one of the keys that lead to them"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_is_told_in_one_sentence(value: Any, message: str) -> None:
    with pytest.raises(SignatureError) as caught:
        flatten(value, is_number)

    assert str(caught.value) == message


@dataclass
class Steps:
    """A dataclass that takes no None."""

    count: str
    names: list[str]

    def __post_init__(self) -> None:
        if self.count is None:
            raise TypeError("count is None")


@pytest.mark.parametrize(
    ("value", "expected", "names"),
    [
        ({"a": 1, "cache": object()}, {"a": 1, "cache": None}, {"cache": "object"}),
        ((1, "text", None), (1, None, None), {"output_1": "str"}),
        ({"a": [1, 2.5], "b": {"c": "x"}}, {"a": [1, None], "b": None}, {"a.1": "float", "b.c": "str"}),
        ({"a": 1, "steps": Steps("3", ["x"])}, {"a": 1, "steps": None}, {"steps.count": "str", "steps.names.0": "str"}),
    ],
)
def test_what_is_not_a_tensor_is_left_out_and_named(value: Any, expected: Any, names: dict[str, str]) -> None:
    leaves, restore = flatten(value, is_number)

    assert restore(leaves) == expected
    assert restore_from(json.loads(json.dumps(outline(value, is_number))))(leaves) == expected
    assert left_out(value, is_number) == names
