"""Loader for folders saved by transformers or sentence-transformers, as a Predictor that takes text. Extra: demo."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nograd.errors import MissingExtraError, ModelLoadError
from nograd.model_folders.sentence_transformers import POOLING_MODES, SentenceFolder, read_sentence_folder
from nograd.predictors.predictor import Predictor
from nograd.text.tokenizing import Tokenize, read_json

__all__ = ["is_transformers_folder", "load_folder"]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Inputs that a tokenizer creates."""

SAMPLE = (
    "A man is eating food.",
    "The committee will publish its findings, together with the evidence they rest on, before the end of the month.",
)
"""Two texts of different lengths, so that the probe finds the varying dimension."""


def is_transformers_folder(folder: Path) -> bool:
    """Return whether a folder contains a model's `config.json`, or the `modules.json` of sentence-transformers."""
    return (folder / "config.json").is_file() or (folder / "modules.json").is_file()


def load_folder(folder: Path, *, device: str = "auto") -> Predictor:
    """Return a Predictor for the model in a folder. It takes text and returns the model's outputs, or embeddings for a sentence
    encoder.

    Raises:
        MissingExtraError: torch, transformers or tokenizers is not installed.
        ModelLoadError: the folder cannot be loaded, holds something that nograd does not apply, or lacks weights.
    """
    sentence = read_sentence_folder(folder)
    place = sentence.encoder if sentence is not None else folder
    encoder, missing = _model(place, is_encoder=sentence is not None)
    tokenize = Tokenize(
        place,
        names=_inputs_of(encoder),
        prompt=sentence.prompt if sentence is not None else "",
        lower_case=sentence is not None and sentence.lower_case,
    )
    tokenize = _without_unused_types(tokenize, place, has_default_types=sentence is not None)
    model = encoder if sentence is None else _sentence_encoder(encoder, sentence, tokenize)
    _require_weights(model, encoder, missing, tokenize, place)
    return _cut_to_limit(Predictor(model, device=device, preprocess=tokenize, sample=SAMPLE), tokenize)


def _cut_to_limit(predictor: Predictor, tokenize: Tokenize) -> Predictor:
    """Return a predictor whose tokenizer truncates at the probed limit, if the folder's files allow more."""
    signature = predictor.signature
    spec = next(spec for spec in signature.inputs if spec.name == "input_ids")
    limits = [limit for dim in spec.varying if (limit := signature.size_range(dim)[1]) is not None]
    if not limits or (tokenize.max_tokens or limits[0] + 1) <= limits[0]:
        return predictor
    return Predictor(predictor.backend, preprocess=tokenize.renewed(max_tokens=limits[0]), sample=SAMPLE)


def _inputs_of(model: Any) -> tuple[str, ...]:
    """Return the model's inputs that a tokenizer can create."""
    parameters = inspect.signature(model.forward).parameters
    return tuple(name for name in INPUTS if name == "input_ids" or name in parameters)


def _without_unused_types(tokenize: Tokenize, folder: Path, *, has_default_types: bool) -> Tokenize:
    """Return a tokenizer that creates `token_type_ids` only if transformers' tokenizer of the folder does.

    Args:
        tokenize: creates every input that the model takes.
        folder: of the tokenizer.
        has_default_types: whether token types that are all 0 are the model's default and can be left out.
    """
    names = tokenize.names
    if "token_type_ids" not in names:
        return tokenize
    if has_default_types and not any(tokenize(text)["token_type_ids"].any() for text in SAMPLE):
        created: Sequence[str] = ()
    else:
        created = read_json(folder / "tokenizer_config.json").get("model_input_names") or _class_inputs(folder)
    if "token_type_ids" in created:
        return tokenize
    return tokenize.renewed(names=[name for name in names if name != "token_type_ids"])


def _class_inputs(folder: Path) -> Sequence[str]:
    """Return the inputs that the class of the folder's tokenizer creates; all if it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        found: Sequence[str] = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False).model_input_names
    except Exception:  # noqa: BLE001  a folder with nothing but tokenizer.json; the library raises many kinds
        return INPUTS
    return found


def _model(folder: Path, *, is_encoder: bool) -> tuple[Any, list[str]]:
    """Return the model of a folder, and the names of the weights that its files lack."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # load only from the folder, never download
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise MissingExtraError(str(error.name), "demo") from None
    config = read_json(folder / "config.json")
    names = config.get("architectures") or ["AutoModel"]
    kind: Any = transformers.AutoModel if is_encoder else getattr(transformers, str(names[0]), None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        kind = transformers.AutoModel  # only accept names of models, no other classes of transformers
    transformers.utils.logging.disable_progress_bar()
    try:
        model, info = kind.from_pretrained(str(folder), trust_remote_code=False, output_loading_info=True)
    except Exception as error:  # report any error of the library with the folder's name
        raise ModelLoadError(f"transformers cannot load {folder}: {type(error).__name__}: {error}") from error
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False  # keys and values of earlier tokens are not outputs
    return model.eval(), sorted(info["missing_keys"])


def _sentence_encoder(encoder: Any, sentence: SentenceFolder, tokenize: Tokenize) -> Any:
    """Return encoder, pooling and further layers as one module."""
    from nograd.model_folders.sentence_encoder import SentenceEncoder, read_layers
    from nograd.text.pooling import MeanPooled

    if not sentence.pooling:
        raise ModelLoadError(f"{sentence.encoder} sets no pooling mode; nograd reads {', '.join(POOLING_MODES)}")
    kinds = [kind for kind, _ in sentence.layers]
    skipped = 0 if sentence.include_prompt else tokenize.num_prompt_tokens
    is_plain = sentence.pooling == ("mean",) and kinds in ([], ["Normalize"]) and not skipped
    if is_plain and tokenize.names == ("input_ids", "attention_mask"):
        return MeanPooled(encoder, normalize=bool(kinds)).eval()
    return SentenceEncoder(encoder, sentence.pooling, read_layers(sentence), skipped=skipped).eval()


def _require_weights(model: Any, encoder: Any, missing: Sequence[str], tokenize: Tokenize, folder: Path) -> None:
    """Raise ModelLoadError if outputs depend on weights that the folder lacks; transformers makes them up at random.

    Lacking weights that no output depends on become 0, so that the model has the same fingerprint each time it is loaded.
    """
    if not missing:
        return
    import torch

    rows = {name: torch.from_numpy(array)[None] for name, array in tokenize(SAMPLE[1]).items()}
    tensors = {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}
    lacking = [tensors[name] for name in missing if name in tensors]
    with torch.inference_mode():
        for tensor in lacking:
            tensor.copy_(torch.rand(tensor.shape))
        before = _floats(model(**rows))
        for tensor in lacking:
            tensor.zero_()
        after = _floats(model(**rows))
    if len(lacking) < len(missing) or any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelLoadError(
            f"{folder} lacks the weights {', '.join(missing[:3])}{more}, and the outputs depend on them; save the whole model "
            "(save_pretrained), or name its own class in architectures of config.json"
        )


def _floats(outputs: Any) -> list[Any]:
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [value for value in values if hasattr(value, "is_floating_point") and value.is_floating_point()]
