"""TorchScript files: `torch.jit.load` returns what the model returns, and nograd's loader reads files of every version."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nograd import Predictor, export_to_torchscript, load
from nograd.backends.eager import eager_backend
from nograd.backends.exporting import FlatModule, manifest_of, quiet
from nograd.backends.torchscript import EXTRA_FILE, load_torchscript
from nograd.errors import ConfigError
from tests.kinds_of_model import MODELS, assert_equal, call, make_inputs, make_model
from tests.torch_models import MaskedMean, Returns


def jit_load(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        return torch.jit.load(path)  # type: ignore[no-untyped-call]


class Typed(nn.Module):
    """A dict with the types that scripting needs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.head(x)
        return {"logits": logits, "probabilities": logits.softmax(-1)}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("method", ["trace", "script"])
def test_the_loaded_file_returns_what_the_model_returns(kind: str, method: Any, tmp_path: Path) -> None:
    model = make_model(kind)

    export_to_torchscript(model, make_inputs(kind, 2), tmp_path / "m.pt", method=method)

    for rows in (1, 5):
        inputs = make_inputs(kind, rows)
        right = call(model, inputs)
        assert_equal(call(jit_load(tmp_path / "m.pt"), inputs), right)
        assert_equal(load(str(tmp_path / "m.pt"), trusted=True).predict(inputs), right)


def test_a_scripted_dict_and_a_traced_list_keep_their_types(tmp_path: Path) -> None:
    for model, method in ((Typed().eval(), "script"), (Returns(lambda x: [x, x * 2]), "trace")):
        x = torch.rand(3, 6)
        export_to_torchscript(model, x, tmp_path / "m.pt", method=method)  # type: ignore[arg-type]

        assert_equal(jit_load(tmp_path / "m.pt")(x), call(model, x))


class ReadsBatch(nn.Module):
    """Takes one dict."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        found: Tensor = self.head(batch["x"])
        return found


def test_a_model_that_takes_one_dict_is_traced_with_a_dict(tmp_path: Path) -> None:
    model, batch = ReadsBatch().eval(), {"x": torch.rand(2, 6)}
    export_to_torchscript(model, batch, tmp_path / "m.pt")

    assert_equal(jit_load(tmp_path / "m.pt")(batch), model(batch).detach())
    assert_equal(load(str(tmp_path / "m.pt"), trusted=True).predict(batch), model(batch).detach())


def test_an_optional_mask_stays_optional_in_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ids = MaskedMean().eval(), torch.randint(1, 50, (3, 6))
    export_to_torchscript(model, ids[:2], tmp_path / "m.pt")
    loaded, mask = jit_load(tmp_path / "m.pt"), (torch.arange(6) < 4).long().expand(3, 6)

    assert_equal(loaded(ids), model(ids).detach())
    assert_equal(loaded(ids, mask), model(ids, mask).detach())
    assert_equal(loaded(input_ids=ids[:, :2], attention_mask=mask[:, :2]), model(ids[:, :2]).detach())


def test_a_structure_that_torchscript_cannot_hold_is_flat_in_the_file_and_says_so(tmp_path: Path) -> None:
    model = Returns(lambda x: {"logits": x, "aux": (x + 1, x * 2)})
    x = torch.rand(2, 3)

    made = export_to_torchscript(model, x, tmp_path / "m.pt")

    assert made.notes[0] == "TorchScript has no type for the model's outputs: the file returns a flat tuple"
    assert len(jit_load(tmp_path / "m.pt")(x)) == 3
    assert_equal(load(str(tmp_path / "m.pt"), trusted=True).predict(x), model(x))


def test_a_file_of_an_earlier_version_is_still_read(tmp_path: Path) -> None:
    model = make_model("outputs")
    reference = eager_backend(model, [make_inputs("outputs", 2)])
    with quiet(), torch.no_grad():
        program = torch.jit.trace(FlatModule(reference), (make_inputs("outputs", 3),), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(program, str(tmp_path / "old.pt"), _extra_files={EXTRA_FILE: manifest_of(reference).dumps()})
    inputs = make_inputs("outputs", 5)

    assert_equal(Predictor(load_torchscript(tmp_path / "old.pt", trusted=True)).predict(inputs), call(model, inputs))


def test_the_file_says_how_it_is_called(tmp_path: Path) -> None:
    export_to_torchscript(make_model("named"), make_inputs("named", 2), tmp_path / "m.pt")
    extra = {"nograd-call.json": ""}
    with quiet():
        torch.jit.load(tmp_path / "m.pt", _extra_files=extra)  # type: ignore[no-untyped-call]

    assert json.loads(extra["nograd-call.json"]) == {"names": ["input_ids", "attention_mask"], "style": "keywords"}


def test_a_predictor_instead_of_a_module_is_one_sentence(tmp_path: Path) -> None:
    model = make_model("tensor")

    with pytest.raises(ConfigError, match=r"^model is a Predictor; give the torch.nn.Module that it runs, or its `.backend`$"):
        export_to_torchscript(Predictor(model), make_inputs("tensor"), tmp_path / "m.pt")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^model is a str; it must be a torch.nn.Module or an eager backend$"):
        export_to_torchscript("model", make_inputs("tensor"), tmp_path / "m.pt")  # type: ignore[arg-type]


def test_a_path_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = make_model("tensor"), make_inputs("tensor")

    with pytest.raises(ConfigError, match="which is a folder; give the name of a file in it"):
        export_to_torchscript(model, x, tmp_path)
    with pytest.raises(ConfigError, match=r"the folder .*missing does not exist"):
        export_to_torchscript(model, x, tmp_path / "missing" / "m.pt")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ConfigError, match="this user may not write into the folder"):
        export_to_torchscript(model, x, tmp_path / "m.pt")
