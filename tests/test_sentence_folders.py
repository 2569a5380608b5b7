"""Folders of sentence-transformers and transformers: every part is applied, or refused by name; nothing is dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from nograd import load
from nograd.bundle.pipeline import TOKENIZER, _step, read_step
from nograd.errors import ModelLoadError
from nograd.text import Tokenize
from tests.tiny_folders import SIZE, list_modules, tiny_bert, tiny_tokenizer, token_vectors, write_json

TEXT = "the cat sits on a mat"
MEAN = {"pooling_mode_mean_tokens": True}


def embedding(folder: Path, text: str = TEXT) -> Tensor:
    """The vector of one text, after one of another length in the same batch."""
    return torch.as_tensor(load(str(folder)).predict(["cat", text])[1]["embedding"])


def vectors(model: Any, text: str = TEXT) -> Tensor:
    return token_vectors(model, tiny_tokenizer()(text)["input_ids"])


def places(hidden: Tensor) -> Tensor:
    return torch.arange(1, len(hidden) + 1, dtype=torch.float32)[:, None]


POOLED = {
    "cls": lambda hidden: hidden[0],
    "max": lambda hidden: hidden.amax(0),
    "mean": lambda hidden: hidden.mean(0),
    "mean_sqrt_len_tokens": lambda hidden: hidden.sum(0) / len(hidden) ** 0.5,
    "weightedmean": lambda hidden: (hidden * places(hidden)).sum(0) / places(hidden).sum(),
    "lasttoken": lambda hidden: hidden[-1],
}
FLAGS = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}


@pytest.mark.parametrize("mode", POOLED)
def test_every_pooling_is_applied_in_both_spellings(tmp_path: Path, mode: str) -> None:
    model = tiny_bert(tmp_path)
    expected = POOLED[mode](vectors(model))

    list_modules(tmp_path, pooling={"pooling_mode": mode, "embedding_dimension": SIZE})
    torch.testing.assert_close(embedding(tmp_path), expected, atol=1e-5, rtol=1e-5)
    flag = f"pooling_mode_{FLAGS.get(mode, mode)}"
    list_modules(tmp_path, pooling={"word_embedding_dimension": SIZE, "pooling_mode_mean_tokens": False, flag: True})
    torch.testing.assert_close(embedding(tmp_path), expected, atol=1e-5, rtol=1e-5)


def test_several_poolings_are_concatenated_flags_in_their_own_order_names_in_the_given(tmp_path: Path) -> None:
    hidden = vectors(tiny_bert(tmp_path))
    cls, mean = POOLED["cls"](hidden), POOLED["mean"](hidden)

    list_modules(tmp_path, pooling={"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True})
    torch.testing.assert_close(embedding(tmp_path), torch.cat([cls, mean]), atol=1e-5, rtol=1e-5)
    list_modules(tmp_path, pooling={"pooling_mode": ["mean", "cls"]})
    torch.testing.assert_close(embedding(tmp_path), torch.cat([mean, cls]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("out", "residual"), [(8, False), (SIZE, True), (8, True)])
def test_dense_layer_norm_and_normalize_are_applied(tmp_path: Path, out: int, *, residual: bool) -> None:
    mean = vectors(tiny_bert(tmp_path)).mean(0)
    weight, bias, scale, shift, across = (torch.randn(n) for n in ((out, SIZE), (out,), (out,), (out,), (out, SIZE)))
    dense = {"in_features": SIZE, "out_features": out, "bias": True, "activation_function": "torch.nn.modules.activation.ReLU"}
    weights = {"linear.weight": weight, "linear.bias": bias}
    if residual:
        dense["use_residual"] = True
        weights |= {"residual.weight": across} if out != SIZE else {}
    list_modules(
        tmp_path, ("Dense", dense, weights), ("LayerNorm", {"dimension": out}, {"norm.weight": scale, "norm.bias": shift}),
        ("Dropout", {"dropout": 0.5}, {}), ("Normalize", {}, {}), pooling=MEAN,
    )  # fmt: skip

    found = torch.relu(weight @ mean + bias)
    if residual:
        found = found + (mean if out == SIZE else across @ mean)
    found = nn.functional.normalize(nn.functional.layer_norm(found, (out,), scale, shift), dim=0)
    torch.testing.assert_close(embedding(tmp_path), found, atol=1e-5, rtol=1e-5)


def test_the_encoder_may_be_in_a_folder_of_its_own(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "0_Transformer")
    list_modules(tmp_path, pooling=MEAN)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(tmp_path / "modules.json", modules)

    torch.testing.assert_close(embedding(tmp_path), vectors(model).mean(0), atol=1e-5, rtol=1e-5)


def test_what_nograd_does_not_apply_is_refused_by_name(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    for layers, pooling, message in (
        ([("CNN", {}, {})], MEAN, "lists CNN; after Pooling nograd supports Dense, LayerNorm"),
        ([], {"pooling_mode": "median"}, "pooling_mode is 'median'; nograd reads cls, max"),
        ([], {"pooling_mode_median": True}, "sets pooling_mode_median; nograd reads"),
        ([], {"pooling_mode_mean_tokens": False}, "sets no pooling mode"),
        ([("Dense", {"module_input_name": "token_embeddings"}, {})], MEAN, "module_input_name is 'token_embeddings'"),
        ([("Dense", {"in_features": 2}, {})], MEAN, "Dense in .* cannot be read: KeyError: 'out_features'"),
        ([("LayerNorm", {"dimension": SIZE}, {})], MEAN, r"LayerNorm in .* there is no model\.safetensors"),
        (
            [("Dense", {"in_features": 2, "out_features": 2, "activation_function": "os.system"}, {})],
            MEAN,
            r"activation_function is 'os\.system'; it must be a module of torch\.nn",
        ),
    ):
        list_modules(tmp_path, *layers, pooling=pooling)
        with pytest.raises(ModelLoadError, match=message):
            load(str(tmp_path))
    modules = json.loads((tmp_path / "modules.json").read_text())
    write_json(tmp_path / "modules.json", modules[1:])
    with pytest.raises(ModelLoadError, match="nograd reads Transformer, Pooling, then"):
        load(str(tmp_path))
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(ModelLoadError, match="is not a list of modules"):
        load(str(tmp_path))


def test_the_default_prompt_is_in_front_of_every_text_and_pooled_only_where_the_folder_says_so(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path)
    whole = vectors(model, "query : " + TEXT)
    settings = {"prompts": {"search": "query : ", "document": ""}, "default_prompt_name": "search"}

    list_modules(tmp_path, pooling=MEAN)
    write_json(tmp_path / "config_sentence_transformers.json", settings)
    torch.testing.assert_close(embedding(tmp_path), whole.mean(0), atol=1e-5, rtol=1e-5)
    list_modules(tmp_path, pooling={**MEAN, "include_prompt": False})
    torch.testing.assert_close(embedding(tmp_path), whole[3:].mean(0), atol=1e-5, rtol=1e-5)  # [CLS] query :
    write_json(tmp_path / "config_sentence_transformers.json", {**settings, "default_prompt_name": "other"})
    with pytest.raises(ModelLoadError, match="default_prompt_name is 'other'; prompts has 'search', 'document'"):
        load(str(tmp_path))


def test_lower_case_and_the_side_of_truncation_are_the_folders(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path, truncation_side="left")
    list_modules(tmp_path, pooling=MEAN)
    write_json(tmp_path / "sentence_bert_config.json", {"do_lower_case": True, "max_seq_length": 8})
    text = "a mat and then the Cat runs far away"

    ids = tiny_tokenizer()(text.lower())["input_ids"]
    expected = token_vectors(model, [ids[0], *ids[-7:]]).mean(0)
    torch.testing.assert_close(embedding(tmp_path, text), expected, atol=1e-5, rtol=1e-5)


def test_weights_that_are_missing_are_an_error_only_if_outputs_depend_on_them(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", {**config, "architectures": ["BertForSequenceClassification"]})
    with pytest.raises(ModelLoadError, match=r"lacks the weights classifier\.bias, classifier\.weight"):
        load(str(tmp_path))

    model = tiny_bert(tmp_path, "BertForMaskedLM")  # saved without the pooler that a sentence encoder does not use
    list_modules(tmp_path, pooling=MEAN)
    torch.testing.assert_close(embedding(tmp_path), vectors(model.bert).mean(0), atol=1e-5, rtol=1e-5)
    first, second = (load(str(tmp_path)).fingerprint().text for _ in range(2))
    assert first == second


def test_a_decoder_gives_no_cache_and_gets_only_the_inputs_of_its_tokenizer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(model_input_names=["input_ids", "attention_mask"])
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=32, n_embd=SIZE, n_layer=1, n_head=2, bos_token_id=2, eos_token_id=3
    )
    model = transformers.GPT2Model(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    predictor = load(str(tmp_path))
    assert [spec.name for spec in predictor.signature.inputs] == ["input_ids", "attention_mask"]
    found = predictor.predict([TEXT])[0]
    assert list(found.keys()) == ["last_hidden_state"]
    torch.testing.assert_close(torch.as_tensor(found["last_hidden_state"]), vectors(model), atol=1e-5, rtol=1e-5)


def test_a_tokenizer_keeps_prompt_side_and_case_in_a_bundle(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    tokenize = Tokenize(tmp_path, prompt="query : ", truncation_side="left", lower_case=True, max_tokens=6)
    again = tokenize.renewed(names=("input_ids",))

    (tmp_path / TOKENIZER).write_text(tokenize.dumps())
    bundled: Any = read_step(_step(tokenize, "preprocess", by_factory=False), tmp_path, None)
    assert bundled.fingerprint() == tokenize.fingerprint()
    assert bundled("a mat and the Cat")["input_ids"].tolist() == tokenize("a mat and the Cat")["input_ids"].tolist()
    assert again("Cat runs far away")["input_ids"].tolist() == tokenize("Cat runs far away")["input_ids"].tolist()
    assert tokenize.fingerprint() != Tokenize(tmp_path, truncation_side="left", lower_case=True, max_tokens=6).fingerprint()
    assert tokenize.fingerprint() != Tokenize(tmp_path, prompt="query : ", lower_case=True, max_tokens=6).fingerprint()
    assert np.array_equal(tokenize("cat")["input_ids"], tokenize("Cat")["input_ids"])
