"""Tiny folders with random weights, as transformers and sentence-transformers save them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

WORDS = ["a", "the", "cat", "Cat", "sits", "on", "mat", "query", ":", "find", ",", "and", "then", "it", "runs", "far", "away"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
SIZE = 16


def tiny_tokenizer(**options: Any) -> Any:
    """A cased word tokenizer that puts [CLS] in front and [SEP] behind."""
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=32, **{**names, **options})


def tiny_bert(folder: Path, kind: str = "BertModel", **options: Any) -> Any:
    """A BERT of two layers and its tokenizer, saved in a folder; matrices are large, so that texts differ."""
    torch.manual_seed(5)
    tokenizer = tiny_tokenizer(**options)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=SIZE, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def list_modules(
    folder: Path, *layers: tuple[str, Mapping[str, Any], Mapping[str, Tensor]], pooling: Mapping[str, Any]
) -> None:
    """Make a sentence-transformers folder of a transformers folder: pooling, then layers as type, configuration and weights."""
    kinds = ["Transformer", "Pooling", *(kind for kind, _, _ in layers)]
    paths = ["", *(f"{place}_{kind}" for place, kind in enumerate(kinds) if place)]
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / paths[1] / "config.json", pooling)
    for path, (_, config, weights) in zip(paths[2:], layers, strict=True):
        write_json(folder / path / "config.json", config)
        if weights:
            save_file(dict(weights), folder / path / "model.safetensors")


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


def token_vectors(model: Any, ids: Sequence[int]) -> Tensor:
    """The encoder's vectors of one row of ids, `[tokens, SIZE]`."""
    with torch.inference_mode():
        found: Tensor = model(torch.tensor([list(ids)])).last_hidden_state[0]
    return found
