"""Modules and folders get into a bundle and out of it with the same answers; tests/test_backends.py has exported files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nograd import load
from nograd.backends.eager import eager_backend
from nograd.backends.weights import load_weights, save_weights
from nograd.bundle import Bundle, BundleSettings, ModelFactory, ModelFolder, Pipeline, write_bundle
from nograd.errors import ConfigError, ModelLoadError
from nograd.transforms.precision import to_half
from tests.bundled_models import Tied, answers, ids, tied_over_items, trained
from tests.bundles import listed
from tests.test_sources import folder as minilm_folder


def write(
    path: Path,
    factory: str = "tied",
    model: nn.Module | None = None,
    front: Pipeline = Pipeline(),  # noqa: B008
    **changes: Any,
) -> Path:
    model = trained() if model is None else model
    source = ModelFactory(f"tests.bundled_models:{factory}", model)
    signature = eager_backend(model, [(ids(),)]).signature
    given = {"name": "tied", "backend": "eager", **changes}
    return write_bundle(path, model=source, signature=signature, settings=BundleSettings(**given), front=front)


@pytest.mark.parametrize("factory", ["tied", "with_example"])
def test_a_factorys_module_gets_the_weights_that_were_written(tmp_path: Path, factory: str) -> None:
    path = write(tmp_path / "bundle", factory)
    assert listed(path) == ["SHA256SUMS", "bundle.json", "weights.safetensors"]

    with pytest.raises(ConfigError, match=rf"contains the name of a function to call \(tests\.bundled_models:{factory}\)"):
        load(str(path))
    predictor = load(str(path), trusted=True)

    assert torch.equal(predictor.predict(ids())["logits"], answers(trained())["logits"])
    assert predictor.backend.name == "eager"


def test_a_bare_module_is_probed_with_the_bundles_example(tmp_path: Path) -> None:
    front = Pipeline(example={"ids": ids()[:1].numpy()})

    predictor = load(str(write(tmp_path / "bundle", "bare", front=front)), trusted=True)

    assert torch.equal(predictor.predict(ids())["logits"], answers(trained())["logits"])
    with pytest.raises(ModelLoadError, match="returned a bare module, and the bundle has no example to probe it with"):
        load(str(write(tmp_path / "bundle", "bare")), trusted=True)


def test_steps_that_have_no_name_come_from_the_factory(tmp_path: Path) -> None:
    original = tied_over_items()
    model = original.backend.model  # type: ignore[attr-defined]

    with pytest.raises(ConfigError, match="preprocess is a lambda"):
        Pipeline.of(original).check()
    Pipeline.of(original).check(by_factory=True)
    path = write(tmp_path / "bundle", "tied_over_items", model, Pipeline.of(original))
    predictor = load(str(path), trusted=True)

    assert predictor.predict(["1234", "99"]) == original.predict(["1234", "99"])
    assert predictor.example == "1234"
    plain = json.loads((path / "bundle.json").read_text())
    assert plain["preprocess"] == plain["postprocess"] == {"kind": "factory"}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_made_again(tmp_path: Path, precision: Any) -> None:
    predictor = load(str(write(tmp_path / "bundle", precision=precision)), trusted=True)

    halved = answers(to_half(trained(), precision))["logits"]
    assert torch.equal(predictor.predict(ids())["logits"], halved)
    assert not torch.equal(halved, answers(trained())["logits"])


def test_lanes_and_threads_are_the_bundles(tmp_path: Path) -> None:
    predictor = load(str(write(tmp_path / "bundle", lanes=2, num_threads=1)), trusted=True)

    assert predictor.lanes == 2
    assert predictor.backend.num_threads == 1  # type: ignore[attr-defined]


def test_a_compiled_model_is_compiled_again(tmp_path: Path) -> None:
    predictor = load(str(write(tmp_path / "bundle", backend="compiled", max_batch_size=4, num_threads=1)), trusted=True)

    assert predictor.backend.name == "compiled"
    torch.testing.assert_close(predictor.predict(ids())["logits"], answers(trained())["logits"])
    assert predictor.backend.compilations == 0


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("other", "the weights are not those of the module that the factory makes: "),
        (
            "doubled",
            "'embedding.weight' of the module that the factory makes differs from the bundle's (torch.float32)",
        ),
        ("raising", "tests.bundled_models:raising raised RuntimeError: the config is gone"),
        ("answers", "tests.bundled_models:answers raised TypeError"),
        ("ids", "tests.bundled_models:ids returned Tensor; it must return a nograd.Predictor or a torch.nn.Module"),
        ("gone", "tests.bundled_models:gone cannot be imported: AttributeError"),
    ],
)
def test_a_factory_that_makes_something_else_is_refused(tmp_path: Path, factory: str, said: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load(str(write(tmp_path / "bundle", factory)), trusted=True)

    assert said in str(caught.value)


# -- weights


def test_a_shared_tensor_is_written_once_and_is_shared_again(tmp_path: Path) -> None:
    save_weights(trained(), tmp_path / "weights")
    model = Tied()

    load_weights(model, tmp_path / "weights")

    size = (tmp_path / "weights").stat().st_size
    once = sum(tensor.nbytes for name, tensor in trained().state_dict().items() if name != "head.weight")
    assert once < size < once + 1000
    assert model.head.weight is model.embedding.weight
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in trained().state_dict().items())


def test_separate_tensors_that_the_factory_ties_are_refused(tmp_path: Path) -> None:
    model = trained()
    model.head.weight = nn.Parameter(model.head.weight.detach() + 1)
    save_weights(model, tmp_path / "weights")

    with pytest.raises(ModelLoadError, match="or memory that it shares with another tensor"):
        load_weights(Tied(), tmp_path / "weights")


def test_views_of_one_memory_are_written_apart(tmp_path: Path) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.arange(12.0)
            self.register_buffer("a", whole[:6])
            self.register_buffer("b", whole[3:9])
            self.register_buffer("c", whole.reshape(3, 4).T)
            self.register_buffer("empty", torch.zeros(0, 3))
            self.register_buffer("none", torch.zeros(0, 3))
            self.register_buffer("nan", torch.tensor([float("nan")]))

    save_weights(Views(), tmp_path / "weights")
    model = Views()
    for buffer in model.buffers():
        buffer.data = torch.zeros_like(buffer)
    load_weights(model, tmp_path / "weights")

    torch.testing.assert_close(dict(model.named_buffers()), dict(Views().named_buffers()), equal_nan=True)


def test_a_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Stateful(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"step": 3}

    with pytest.raises(ConfigError, match="the model's state contains '_extra_state', a dict; a bundle contains only tensors"):
        save_weights(Stateful(1, 1), tmp_path / "weights")
    (tmp_path / "weights").write_bytes(b"no safetensors")
    with pytest.raises(ModelLoadError, match="weights cannot be read: SafetensorError"):
        load_weights(nn.Linear(1, 1), tmp_path / "weights")


# -- transformers folders


def test_of_a_transformers_folder_only_what_loading_needs_is_taken(tmp_path: Path) -> None:
    source = Path(shutil.copytree(minilm_folder(), tmp_path / "source"))
    (source / "modeling_harmful.py").write_text("raise SystemExit")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    original = load(str(source))
    path = write_bundle(
        tmp_path / "bundle", model=ModelFolder(source), signature=original.signature,
        settings=BundleSettings(name="minilm", backend="eager"), front=Pipeline.of(original),
    )  # fmt: skip

    names = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert {"model/config.json", "model/model.safetensors", "model/1_Pooling/config.json", "tokenizer.json"} <= names
    assert not any(name.endswith((".py", ".bin", ".md", ".gitattributes")) for name in names)
    predictor = load(str(path))
    texts = ["A man is eating food.", "short"]
    for ours, theirs in zip(predictor.predict(texts), original.predict(texts), strict=True):
        assert ours["embedding"].tobytes() == theirs["embedding"].tobytes()


def test_code_that_somebody_put_into_a_transformers_folder_is_not_taken(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "num_labels": 3}
    transformers.BertForSequenceClassification(transformers.BertConfig(**sizes)).save_pretrained(tmp_path / "source")
    shutil.copy(minilm_folder() / "tokenizer.json", tmp_path / "source")
    original = load(str(tmp_path / "source"))
    path = write_bundle(
        tmp_path / "bundle", model=ModelFolder(tmp_path / "source"), signature=original.signature,
        settings=BundleSettings(name="bert", backend="eager"), front=Pipeline.of(original),
    )  # fmt: skip
    assert load(str(path)).predict_class(["short"]).shape == (1,)

    (path / "model" / "modeling.py").write_text("")
    from nograd.bundle.digests import write_sums

    write_sums(path)
    with pytest.raises(ModelLoadError, match=r"contains model/modeling\.py, which does not belong in a bundle of eager"):
        Bundle.read(path)
