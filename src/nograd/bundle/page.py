"""The output of `nograd inspect`: a bundle on one page of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nograd.bundle.manifest import Curve
from nograd.bundle.reading import Bundle
from nograd.core.tensors import TensorSpec
from nograd.runtime.machine import Machine

__all__ = ["page"]


def page(bundle: Bundle) -> str:
    """Describe a verified bundle as text for readers."""
    return "\n".join(line.rstrip() for line in _lines(bundle))


def _lines(bundle: Bundle) -> Iterator[str]:
    settings, plain = bundle.settings, bundle.to_json()
    goal = f", for {settings.goal}" if settings.goal else ""
    yield f"{settings.name}: {settings.backend} {settings.precision}, {settings.layout}{goal}"
    yield f"  written {settings.when} UTC by nograd {settings.nograd}; {len(bundle.files)} files, all as they were written"
    yield ""
    yield from _table_lines([("input", "", plain["preprocess"] and f"made by {plain['preprocess']}")], bundle.signature.inputs)
    if sizes := bundle.signature.describe_limits():
        yield f"  sizes     {sizes}"
    yield from _table_lines([("output", "", plain["postprocess"] and f"then {plain['postprocess']}")], bundle.signature.outputs)
    yield f"  batching  {bundle.signature.batching}: {bundle.signature.reason}, at most {settings.max_batch_size} rows a run"
    yield f"  rows      {bundle.signature.independence or 'independence not measured'}"
    yield ""
    yield from _curve_lines(settings.curve)
    yield from _proof_lines(settings.parity, settings.metric, confirmed=settings.confirmed)
    yield ""
    yield from _machine_lines(settings.machine, plain["differences"])
    reasons = plain["trust_reasons"]
    yield (
        f"trust     needed (--trusted): it contains {' and '.join(reasons)}"
        if reasons
        else "trust     not needed: it contains no code"
    )
    yield ""
    files = [(file.name, _size_text(file.size_bytes), file.sha256) for file in bundle.files]
    yield from _align([("file", "size", "SHA-256"), *files])


def _table_lines(head: Sequence[tuple[str, str, str]], specs: Sequence[TensorSpec]) -> Iterator[str]:
    yield from _align([*head, *((f"  {spec.name}", str(spec), "") for spec in specs)])


def _curve_lines(curve: Curve | None) -> Iterator[str]:
    if curve is None:
        yield "curve     none was measured"
        return
    unit = "rows" if curve.unit == "rows" else "padded tokens"
    lines = [(unit, "ms a run", "95 %", f"{curve.unit}/s")]
    for size, seconds, low, high in zip(curve.sizes, curve.seconds, curve.low, curve.high, strict=True):
        lines.append((str(size), f"{seconds * 1e3:.3g}", f"{low * 1e3:.3g} .. {high * 1e3:.3g}", f"{size / seconds:,.0f}"))
    yield from _align(lines)


def _proof_lines(parity: Mapping[str, Any] | None, metric: float | None, *, confirmed: bool | None) -> Iterator[str]:
    if parity is None:
        yield "parity    not compared with eager"
    else:
        verdict = "passed" if parity.get("passed") else "FAILED"
        yield f"parity    {verdict} over {parity.get('rows', '?')} rows, against eager"
        for output in parity.get("outputs", ()):
            yield f"  {output.get('name')}: {_agreement(output)}"
    if metric is not None:
        yield f"metric    {metric:g}"
    labels = {
        None: "not tested with a batcher",
        True: "with a batcher, under load",
        False: "NOT: the curve was wrong under load",
    }
    yield f"confirmed {labels[confirmed]}"


def _agreement(output: Mapping[str, Any]) -> str:
    names = {"min_cosine": "smallest cosine", "max_abs": "largest difference", "max_rel": "relative", "agreement": "agreement"}
    figures = [f"{words} {_format_figure(output[name])}" for name, words in names.items() if output.get(name) is not None]
    return ", ".join(figures)


def _format_figure(value: object) -> str:
    return f"{value:.7g}" if isinstance(value, int | float) else str(value)


def _machine_lines(machine: Machine | None, differences: Sequence[str]) -> Iterator[str]:
    if machine is None:
        return
    libraries = ", ".join(f"{name} {version}" for name, version in machine.libraries.items())
    gpus = f", {', '.join(machine.gpus)}" if machine.gpus else ""
    yield f"machine   {machine.processor}, {machine.cores:g} cores, {_size_text(machine.memory_bytes)}{gpus}; {machine.system}"
    yield f"          Python {machine.python}, {libraries}"
    yield "here      no difference that affects speed or answers" if not differences else f"here      {differences[0]}"
    for sentence in differences[1:]:
        yield f"          {sentence}"


def _size_text(count: int) -> str:
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def _align(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
