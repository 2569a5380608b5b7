from __future__ import annotations

import functools
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from nograd import Predictor
from nograd.backends.eager import eager_backend
from nograd.runtime.fingerprint import Fingerprint, of_value

SCALE = 2.0


def scaled(x: Any) -> Any:
    return x * SCALE


def adder(amount: float) -> Any:
    return lambda x: x + amount


class Scaler:
    def __init__(self, by: float) -> None:
        self.by = by
        self.lock = threading.Lock()

    def __call__(self, x: Any) -> Any:
        return x * self.by


class Slotted:
    __slots__ = ("by",)

    def __init__(self, by: float) -> None:
        self.by = by


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 2))


DIFFERENT: list[list[Any]] = [
    [1, 1.0, True, "1", b"1", None, (1,), [1], {1: 1}, frozenset([1]), np.int64(1), np.float32(1), torch.tensor(1)],
    [np.zeros(2), np.zeros(2, np.float32), np.zeros((1, 2)), np.zeros(3), torch.zeros(2), torch.zeros(2, dtype=torch.float16)],
    [scaled, adder(1), adder(2), len, max, np.add, torch.relu, torch.tanh],
    [functools.partial(scaled, 1), functools.partial(scaled, 2), functools.partial(adder, 1)],
    [Scaler(1), Scaler(2), Slotted(1), Slotted(2), Scaler, Slotted],
    [Scaler(1).__call__, Scaler(2).__call__],
    [re.compile("a"), re.compile("a", re.IGNORECASE), re.compile("b"), slice(1), range(1), Path("a"), "a"],
    [["ab", "c"], ["a", "bc"], [["ab"], "c"], {"ab": "c"}, {"a": "bc"}],
    [net(0), net(1), nn.Sequential(*net(0)[:3]), nn.ReLU(), nn.GELU(), nn.GELU("tanh"), nn.Softmax(0), nn.Softmax(1)],
    [torch.float32, torch.float16, torch.device("cpu")],
    [{"a": 1, "b": 2}, {"b": 2, "a": 1}],
]


@pytest.mark.parametrize("values", DIFFERENT, ids=lambda values: type(values[0]).__name__)
def test_different_things_have_different_fingerprints(values: list[Any]) -> None:
    found = [of_value(value) for value in values]
    assert len({each.text for each in found}) == len(values)
    assert all(each.private_because == "" for each in found)
    assert [of_value(value) for value in values] == found


def test_equal_things_have_equal_fingerprints() -> None:
    pairs: list[tuple[Any, Any]] = [
        (net(3), net(3)),
        (net(3).train(), net(3).eval()),
        (adder(5), adder(5)),
        (Scaler(4), Scaler(4)),
        (np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))),
        (np.arange(3, dtype=">f4"), np.arange(3, dtype="<f4")),
        (torch.arange(4.0)[::2], torch.tensor([0.0, 2.0])),
        ({1, 2, 3}, {3, 2, 1}),
    ]
    for one, other in pairs:
        assert of_value(one) == of_value(other)


def test_a_global_variable_that_a_function_uses_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = of_value(scaled)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3.0)
    assert of_value(scaled) != before


def nothing_readable() -> Any:
    return iter([1])


@pytest.mark.parametrize(
    "opaque",
    [nothing_readable(), (each for each in [1]), torch.Generator(), Scaler(nothing_readable()), adder(nothing_readable())],
)
def test_what_cannot_be_read_has_a_fingerprint_of_its_own(opaque: Any) -> None:
    found = of_value(opaque)
    assert found.private_because.startswith("it contains a ")
    assert found.private_because.endswith(", whose content cannot be read")
    assert of_value(opaque).text != found.text


def test_code_that_belongs_to_no_module_is_read_and_a_cached_function_is_its_function() -> None:
    def made(source: str) -> Any:
        names: dict[str, Any] = {"__name__": "nowhere"}
        exec(source, names)
        return names["f"]

    plus, minus = made("def f(x): return x + 1"), made("def f(x): return x - 1")
    assert of_value(plus) != of_value(minus)
    assert of_value(plus) == of_value(made("def f(x): return x + 1"))
    assert of_value(functools.cache(plus)) != of_value(functools.cache(minus))
    assert not of_value(functools.cache(plus)).private_because


def test_a_librarys_functions_without_a_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = lambda x: x + 1, lambda x: x - 1
    for function in (one, other):
        monkeypatch.setattr(function, "__module__", "numpy")
        monkeypatch.setattr(function, "__qualname__", "<lambda>")
    assert of_value(one) != of_value(other)
    assert of_value(one) == of_value(one)


def test_a_tokenizer_is_not_taken_for_an_empty_object() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    found = of_value(tokenizers.Tokenizer(tokenizers.models.BPE()))
    assert "tokenizers.Tokenizer" in found.private_because


def test_an_object_may_say_itself_what_it_is() -> None:
    class Sayer:
        def __init__(self, said: Any) -> None:
            self.said, self.handle = said, iter([1])

        def fingerprint(self) -> Any:
            return self.said

    assert of_value(Sayer("a")) == of_value(Sayer("a")) != of_value(Sayer("b"))
    assert of_value(Sayer(Fingerprint("x", "it is shy"))).private_because == "it is shy"
    assert "returned int, not a string" in of_value(Sayer(3)).private_because


def test_things_that_refer_to_themselves() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    other: list[Any] = [1]
    other.append([1, other])
    assert of_value(loop) != of_value(other)


ASK = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
from nograd.runtime.fingerprint import of_value

for path in sys.argv[1:]:
    spec = spec_from_file_location("mine", path)
    sys.modules["mine"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    print(of_value(module.model).text)
"""
"""Prints the fingerprint of `model` in each file, all of which are a module of the same name."""


def fingerprints_of_codes(folder: Path, codes: list[str]) -> list[str]:
    """Return the fingerprints in a fresh process, whose sets and dicts are in another order."""
    paths = []
    for number, code in enumerate(codes):
        (folder / str(number)).mkdir(exist_ok=True)
        paths.append(folder / str(number) / "mine.py")
        paths[-1].write_text(textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, "-c", ASK, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "random"},
    )
    return done.stdout.splitlines()


CODE = """
    FACTOR = 2
    WORDS = {"a", "b", "c"}

    def helper(x):
        return x * FACTOR

    class Base:
        def twice(self, x):
            return helper(x) + 1

    class Model(Base):
        def __call__(self, x):
            "Says nothing."
            return self.twice(x) if x in {"a", "b"} else [word for word in WORDS]

    model = Model()
"""


def test_code_counts_all_the_way_down_and_nothing_else_does(tmp_path: Path) -> None:
    same = [CODE, "# a comment\n" + textwrap.dedent(CODE)]
    changes = (
        ("FACTOR = 2", "FACTOR = 3"),
        ("x * FACTOR", "x + FACTOR"),
        ("helper(x) + 1", "helper(x) - 1"),
        ('"c"}', '"d"}'),
    )

    first, commented, *changed = fingerprints_of_codes(tmp_path, same + [CODE.replace(old, new) for old, new in changes])

    assert not first.startswith("private")
    assert commented == first
    assert len({first, *changed}) == 1 + len(changes)
    assert fingerprints_of_codes(tmp_path, [CODE]) == [first]


# -- backends and predictors


def test_a_module_whose_weights_change_in_place_changes_its_fingerprint() -> None:
    model = net()
    backend = eager_backend(model, [torch.zeros(2, 4)])
    seen = [backend.fingerprint()]

    def changed() -> bool:
        seen.append(backend.fingerprint())
        assert backend.fingerprint() == seen[-1]
        return seen[-1] not in seen[:-1]

    assert not changed()
    with torch.no_grad():
        model[0].weight.add_(1)
    assert changed()
    model.load_state_dict(net(7).state_dict())
    assert changed()
    model[0].weight = nn.Parameter(torch.ones(8, 4))
    assert changed()
    model[2].running_mean.fill_(2.0)
    assert changed()
    model[1] = nn.Tanh()
    assert changed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    assert changed()
    model.half().float()
    assert changed()


def test_running_a_model_does_not_change_its_fingerprint() -> None:
    backend = eager_backend(net(), [torch.zeros(2, 4)])
    before = backend.fingerprint()
    backend.run({"input": np.ones((3, 4), np.float32)})
    assert backend.fingerprint() is before


def test_another_process_finds_the_same_for_a_real_model() -> None:
    code = (
        "import torch, nograd; torch.manual_seed(0); "
        "m = torch.nn.Sequential(torch.nn.Conv1d(3, 4, 3), torch.nn.BatchNorm1d(4)); "
        "print(nograd.Predictor(m, sample=torch.zeros(2, 3, 9)).fingerprint())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4))
    here = Predictor(model, sample=torch.zeros(2, 3, 9)).fingerprint()
    assert done.stdout.strip() == str(here)
    assert here.private_because == ""


def test_what_is_done_before_and_after_is_part_of_a_predictors() -> None:
    backend = eager_backend(net(), [torch.zeros(2, 4)])
    found = [
        Predictor(backend, preprocess=before, postprocess=after, sample=[np.zeros(4)]).fingerprint()
        for before in (scaled, Scaler(1), Scaler(2))
        for after in (None, scaled)
    ]
    assert len(set(found)) == 6
    assert not any(each.private_because for each in found)


class Block(NamedTuple):
    width: int
    depth: int = 2


BLOCKS = [Block(8), Block(16, 3)]


def widest(row: list[int]) -> int:
    return max(row[0], *(block.width for block in BLOCKS))


def test_named_tuples_of_the_users_own_are_read_like_any_other_class() -> None:
    found = of_value(widest)

    assert found.private_because == ""
    assert found == of_value(widest)
    assert of_value(Block(8)) != of_value(Block(9))
