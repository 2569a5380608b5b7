"""`nograd tune --dry-run`: the candidates that tuning would build, those that it would not and why, and the time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nograd.bundle import Pipeline
from nograd.tuning.candidates import Variant, layouts, variants
from nograd.tuning.loading import rows_of
from nograd.tuning.tuner import BUILDING, TuneSettings, reference_of

if TYPE_CHECKING:
    from nograd.predictors.predictor import Predictor

__all__ = ["TuningPreview", "preview"]


@dataclass(frozen=True, slots=True)
class TuningPreview:
    """What tuning would do. `str` of it is the text for users."""

    output: Path
    settings: TuneSettings
    sample: str
    """The sample in words."""

    tried: tuple[Variant, ...]
    """Variants that would be built, in order."""

    refused: tuple[Variant, ...]
    """Variants that would not be built; `why_not` is the reason."""

    @property
    def build_s(self) -> float:
        """Seconds that a build may take until it is too late to start it."""
        return BUILDING * self.settings.budget_s

    def layouts(self, variant: Variant) -> list[str]:
        """Return the layouts in which a variant would be measured, such as `2x1`: two lanes with one thread each."""
        found = layouts(variant, self.settings.goal, self.settings.cores)
        return [variant.candidate(lanes, threads).layout for lanes, threads in found]

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def preview(predictor: Predictor, data: Any, output: Path, settings: TuneSettings) -> TuningPreview:
    """Return what tuning would do. Nothing is built or written.

    Args:
        predictor: a predictor over the eager backend.
        data: the sample, as for `nograd.tune`.
        output: the bundle that tuning would write.
        settings: settings of tuning.

    Raises:
        ConfigError: a bundle cannot hold `preprocess`, or a backend is unknown.
        UnsupportedError: the model is not a torch module on the CPU.
        SignatureError: the model cannot run the sample.
    """
    Pipeline.of(predictor).check()
    reference = reference_of(predictor)
    rows = rows_of(predictor, data)
    found = variants(reference.model, settings.tolerance, has_metric=settings.metric is not None, backends=settings.backends)
    tried = tuple(each for each in found if not each.why_not)
    refused = tuple(each for each in found if each.why_not)
    return TuningPreview(output, settings, rows.description, tried, refused)


def _lines(found: TuningPreview) -> Iterator[str]:
    settings = found.settings
    processors = f"{settings.cores} processor{'s' if settings.cores > 1 else ''}"
    yield f"goal {settings.goal}, tolerance {settings.tolerance_text}, {processors}, {found.sample}"
    yield ""
    yield "would be built, compared with eager and measured (lanes x threads):"
    yield from _aligned([(each.candidate().variant, _describe(found, each)) for each in found.tried])
    if found.refused:
        yield ""
        yield "would not be tried:"
        yield from _aligned([(each.candidate().variant, each.why_not) for each in found.refused])
    yield ""
    yield f"would take about {settings.budget_s:g} s (--budget), of which {found.build_s:g} s for building"
    yield f"would write {found.output}; nothing was built or written"


def _describe(found: TuningPreview, variant: Variant) -> str:
    text = ", ".join(found.layouts(variant))
    if not variant.expected_build_s:
        return text
    text += f"; about {variant.expected_build_s:g} s to build"
    return f"{text}, skipped without a larger --budget" if variant.expected_build_s > found.build_s else text


def _aligned(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max((len(name) for name, _ in rows), default=0)
    return (f"  {name:{width}}  {text}" for name, text in rows)
