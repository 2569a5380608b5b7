"""The start message of `nograd serve`: models, addresses, and a command to try."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from nograd.server.models.served import ServedModel

__all__ = ["greeting", "with_line"]


def greeting(url: str, models: Sequence[ServedModel], grpc: str = "", *, repository: bool = False) -> str:
    """Return the start message: details of a single model, or one line per model.

    Args:
        url: URL of the server.
        models: the served models.
        grpc: address of gRPC; empty: no gRPC.
        repository: whether models may be loaded and unloaded.
    """
    lines = [*(_of_one(url, models[0]) if len(models) == 1 else _of_several(url, models))]
    if repository:
        lines.append(
            f"  load      POST {url}/v2/repository/models/NAME/load, .../unload; POST {url}/v2/repository/index lists them"
        )
    if grpc:
        lines.append(f"  gRPC      {grpc}")
    lines += [f"  live page {url}/", f"  metrics   {url}/metrics", *_to_try(url, models)]
    return "\n".join([*lines, "stop with Ctrl-C"])


def with_line(greeting: str, line: str) -> str:
    """Return a start message with one more line, before that of the live page."""
    lines = greeting.splitlines()
    at = next((index for index, each in enumerate(lines) if each.startswith("  live page")), len(lines))
    return "\n".join([*lines[:at], line, *lines[at:]])


def _of_one(url: str, model: ServedModel) -> Iterator[str]:
    yield f"{model.name} is ready: {url}"
    yield f"  batching  {model.predictor.signature.batching}: {model.predictor.signature.reason}"
    if model.predictor.signature.independence is not None:
        yield f"  rows      {model.predictor.signature.independence}"
    if model.predictor.provenance:
        yield f"  bundle    {model.predictor.provenance}"
    if model.curve is not None:
        known = "bundle's  " if model.predictor.cost is not None else "measured  "
        times = [
            f"{size} {seconds * 1000:.3g} ms" for size, seconds in zip(model.curve.sizes, model.curve.seconds, strict=True)
        ]
        unit = "rows" if model.curve.unit == "rows" else "padded tokens (rows x longest)"
        yield f"  {known}run time by {unit}: {', '.join(times)}"
    yield f"  cache     {model.cache_told()}"


def _of_several(url: str, models: Sequence[ServedModel]) -> Iterator[str]:
    yield f"{len(models)} models are ready: {url}"
    widest = max((len(_titled(model)) for model in models), default=0)
    for model in models:
        backend, signature = model.predictor.backend, model.predictor.signature
        fast = f", {model.curve.seconds[0] * 1000:.3g} ms for one row" if model.curve is not None else ""
        yield f"  {_titled(model):{widest}}  {backend.name} on {backend.device}, batching {signature.batching}{fast}"


def _titled(model: ServedModel) -> str:
    return f"{model.name}, version {model.version}"


def _to_try(url: str, models: Sequence[ServedModel]) -> Iterator[str]:
    shown = ((model, model.example_request()) for model in models)
    for model, example in shown:
        if example is not None:
            body = shlex.quote(json.dumps(example, ensure_ascii=False))
            yield from ("try it:", f"  curl -s {url}/v2/models/{quote(model.name, safe='')}/infer -d {body}")
            return
