"""SentenceEncoder: encoder, pooling and the layers after it as one module, from a sentence-transformers folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nograd.errors import ModelLoadError
from nograd.model_folders.sentence_transformers import SentenceFolder
from nograd.text.pooling import hidden_states
from nograd.text.tokenizing import read_json

__all__ = ["Dense", "SentenceEncoder", "read_layers"]

ACTIVATIONS = "torch.nn.modules."


class SentenceEncoder(nn.Module):
    """An encoder with pooling over unmasked tokens and further layers.

    Args:
        encoder: returns `last_hidden_state [rows, tokens, size]`.
        pooling: modes, in the order in which their vectors are concatenated.
        layers: take and return `[rows, size]`.
        skipped: tokens at the beginning of each row that are not pooled (a prompt).
    """

    def __init__(
        self, encoder: nn.Module, pooling: Sequence[str], layers: Sequence[nn.Module] = (), *, skipped: int = 0
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = tuple(pooling)
        self.layers = nn.Sequential(*layers)
        self.skipped = skipped

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> dict[str, Tensor]:
        """Return `embedding [rows, size]` for ids, mask and token types, all int64 `[rows, tokens]`."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = hidden_states(self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types))
        places = torch.arange(hidden.shape[1], device=hidden.device)
        mask = attention_mask * (places >= self.skipped) if self.skipped else attention_mask
        return {"embedding": self.layers(torch.cat([_POOL[mode](hidden, mask, places) for mode in self.pooling], dim=1))}


class Dense(nn.Module):
    """A linear layer, an activation, and optionally the input added to their output.

    Args:
        linear: of the folder.
        activation: applied to its output.
        residual: maps the input before it is added; None adds nothing.
    """

    def __init__(self, linear: nn.Linear, activation: nn.Module, residual: nn.Module | None = None) -> None:
        super().__init__()
        self.linear = linear
        self.activation = activation
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Return `[rows, out]` for `[rows, in]`."""
        found: Tensor = self.activation(self.linear(x))
        return found if self.residual is None else found + self.residual(x)


class _Normalize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=-1)


def read_layers(described: SentenceFolder) -> list[nn.Module]:
    """Return the layers after the pooling, with their weights.

    Raises:
        ModelLoadError: a file is missing, or does not fit its configuration.
    """
    return [_layer(kind, path) for kind, path in described.layers]


def _layer(kind: str, path: Path) -> nn.Module:
    if kind == "Normalize":
        return _Normalize()
    config = read_json(path / "config.json")
    try:
        made = _dense(config) if kind == "Dense" else _LayerNorm(int(config["dimension"]))
        made.load_state_dict(_weights(path))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelLoadError(f"{kind} in {path} cannot be read: {type(error).__name__}: {error}") from error
    return made.eval()


class _LayerNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.norm(x)
        return found


def _dense(config: Mapping[str, Any]) -> Dense:
    size, out = int(config["in_features"]), int(config["out_features"])
    linear = nn.Linear(size, out, bias=bool(config.get("bias", True)))
    residual: nn.Module | None = None
    if config.get("use_residual"):
        residual = nn.Identity() if size == out else nn.Linear(size, out, bias=False)
    return Dense(linear, _activation(str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))), residual)


def _activation(name: str) -> nn.Module:
    kind = getattr(nn, name.rpartition(".")[2], None) if name.startswith(ACTIVATIONS) else None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"activation_function is {name!r}; it must be a module of torch.nn")
    made: nn.Module = kind()
    return made


def _weights(path: Path) -> dict[str, Tensor]:
    file = path / "model.safetensors"
    if file.is_file():
        from safetensors.torch import load_file

        return load_file(file)
    old = path / "pytorch_model.bin"
    if not old.is_file():
        raise ValueError(f"there is no {file.name}")
    found: dict[str, Tensor] = torch.load(old, weights_only=True, map_location="cpu")
    return found


# -- pooling: hidden [rows, tokens, size], mask [rows, tokens], places [tokens] -> [rows, size]


def _cls(hidden: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    first = torch.where(mask > 0, places, hidden.shape[1]).amin(1).clamp(max=hidden.shape[1] - 1)
    return _pick(hidden, first)


def _last(hidden: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    return _pick(hidden, torch.where(mask > 0, places, 0).amax(1))


def _pick(hidden: Tensor, index: Tensor) -> Tensor:
    return hidden.gather(1, index[:, None, None].expand(-1, 1, hidden.shape[2])).squeeze(1)


def _max(hidden: Tensor, mask: Tensor, _places: Tensor) -> Tensor:
    return hidden.masked_fill(mask.unsqueeze(-1) == 0, torch.finfo(hidden.dtype).min).amax(1)


def _mean(hidden: Tensor, mask: Tensor, _places: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _mean_sqrt(hidden: Tensor, mask: Tensor, _places: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9).sqrt()


def _weighted(hidden: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    weights = (mask * (places + 1)).unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


_POOL = {
    "cls": _cls, "max": _max, "mean": _mean, "mean_sqrt_len_tokens": _mean_sqrt, "weightedmean": _weighted, "lasttoken": _last,
}  # fmt: skip
