"""Folders that sentence-transformers saved: modules, pooling, prompts. Everything unknown raises an error with its name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nograd.errors import ModelLoadError
from nograd.text.tokenizing import read_json

__all__ = ["POOLING_MODES", "SentenceFolder", "read_sentence_folder"]

POOLING_MODES = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""Mode -> its flag in folders before sentence-transformers 6. Vectors of several modes are concatenated: flags in this order,
names of newer folders in their own."""

LAYERS = ("Dense", "LayerNorm", "Normalize", "Dropout")
"""Modules that may follow the pooling."""

VECTOR = "sentence_embedding"


@dataclass(frozen=True, slots=True)
class SentenceFolder:
    """Description of a sentence encoder."""

    encoder: Path
    """Folder of the transformers model and its tokenizer."""

    pooling: tuple[str, ...]
    """Modes of `POOLING_MODES`."""

    layers: tuple[tuple[str, Path], ...] = ()
    """Modules after the pooling: type and folder."""

    prompt: str = ""
    """Text in front of every input, from `default_prompt_name`."""

    include_prompt: bool = True
    """Whether the tokens of the prompt are pooled."""

    lower_case: bool = False


def read_sentence_folder(folder: Path) -> SentenceFolder | None:
    """Return the description of a sentence encoder's folder; None for other folders.

    Raises:
        ModelLoadError: the folder lists a module, a mode or a setting that nograd does not apply.
    """
    listed = _read_modules(folder)
    if listed is None:
        pooling = folder / "1_Pooling"
        return SentenceFolder(folder, _modes(pooling)) if (pooling / "config.json").is_file() else None
    kinds = [kind for kind, _ in listed]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise ModelLoadError(
            f"{folder / 'modules.json'} lists {', '.join(kinds) or 'no modules'}; nograd reads Transformer, Pooling, then "
            f"{', '.join(LAYERS)}; write a factory for this model"
        )
    if unknown := [kind for kind in kinds[2:] if kind not in LAYERS]:
        raise ModelLoadError(
            f"{folder / 'modules.json'} lists {unknown[0]}; after Pooling nograd supports {', '.join(LAYERS)}; write a factory "
            "for this model"
        )
    encoder, pooling = listed[0][1], listed[1][1]
    settings = read_json(encoder / "sentence_bert_config.json")
    task = settings.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise ModelLoadError(
            f"{encoder / 'sentence_bert_config.json'}: transformer_task is {task!r}; nograd reads feature-extraction"
        )
    layers = tuple((kind, path) for kind, path in listed[2:] if kind != "Dropout")
    for _, path in layers:
        _require_vectors(path)
    return SentenceFolder(
        encoder, _modes(pooling), layers, _prompt(folder), _pools_prompt(pooling), bool(settings.get("do_lower_case"))
    )


def _read_modules(folder: Path) -> list[tuple[str, Path]] | None:
    """Return the modules of `modules.json`, type and folder of each; None without the file."""
    file = folder / "modules.json"
    if not file.is_file():
        return None
    try:
        modules = sorted(json.loads(file.read_text("utf-8")), key=lambda module: module.get("idx", 0))
        return [(str(module["type"]).rpartition(".")[2], folder / str(module.get("path", ""))) for module in modules]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelLoadError(f"{file} is not a list of modules with a type and a path: {error}") from error


def _modes(pooling: Path) -> tuple[str, ...]:
    config = read_json(pooling / "config.json")
    named = config.get("pooling_mode")
    if named is None:
        known = {flag: mode for mode, flag in POOLING_MODES.items()}
        flags = [flag for flag, value in config.items() if flag.startswith("pooling_mode_") and value is True]
        if unknown := [flag for flag in flags if flag not in known]:
            raise ModelLoadError(f"{pooling / 'config.json'} sets {unknown[0]}; nograd reads {', '.join(known)}")
        modes = tuple(mode for mode, flag in POOLING_MODES.items() if flag in flags)
        return modes if modes or _has_flags(config) else ("mean",)
    modes = (named,) if isinstance(named, str) else tuple(map(str, named))
    if unknown := [mode for mode in modes if mode not in POOLING_MODES]:
        raise ModelLoadError(
            f"{pooling / 'config.json'}: pooling_mode is {unknown[0]!r}; nograd reads {', '.join(POOLING_MODES)}"
        )
    return modes


def _has_flags(config: Mapping[str, Any]) -> bool:
    return any(flag in config for flag in POOLING_MODES.values())


def _pools_prompt(pooling: Path) -> bool:
    return bool(read_json(pooling / "config.json").get("include_prompt", True))


def _prompt(folder: Path) -> str:
    settings = read_json(folder / "config_sentence_transformers.json")
    name = settings.get("default_prompt_name")
    prompts = settings.get("prompts") or {}
    if name is None:
        return ""
    if name not in prompts:
        raise ModelLoadError(
            f"{folder / 'config_sentence_transformers.json'}: default_prompt_name is {name!r}; prompts has "
            f"{', '.join(map(repr, prompts)) or 'none'}"
        )
    return str(prompts[name])


def _require_vectors(path: Path) -> None:
    """Raise ModelLoadError if a module reads or writes something other than the pooled vectors."""
    config = read_json(path / "config.json")
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, VECTOR):
            raise ModelLoadError(f"{path / 'config.json'}: {key} is {config[key]!r}; nograd reads {VECTOR!r}")
