"""Bundle: verified, described, and opened as a Predictor."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from nograd.backends.coupling import accept_coupling, measured_signature
from nograd.backends.registry import runtimes
from nograd.batching.collate import join
from nograd.bundle import archive
from nograd.bundle.digests import BundleFile, digest_of, verified_files
from nograd.bundle.manifest import MANIFEST, Described, ImportedStep, Settings, TokenizeStep, loads
from nograd.bundle.pipeline import EXAMPLE, TOKENIZER, read_example, read_step
from nograd.bundle.recalibration import FAR_OFF, scaled, spot_check
from nograd.bundle.source import Opened, code_in, model_files, open_factory, open_model
from nograd.bundle.writing import REPORTS, is_zip
from nograd.core.cost import CostCurve
from nograd.core.tensors import Signature
from nograd.errors import ConfigError, ModelLoadError
from nograd.predictors.predictor import Predictor
from nograd.runtime.machine import Machine, differences, this_machine

__all__ = ["Bundle", "is_bundle"]

Clock = Callable[[], float]


def is_bundle(path: Path) -> bool:
    """True where a path looks like a bundle: a folder with a bundle.json, or a `.zip`."""
    return (path / MANIFEST).is_file() if path.is_dir() else is_zip(path) and path.is_file()


class Bundle:
    """A tuned model with all that running it needs; made by `Bundle.read`, which verifies every file.

    A context manager: a `.zip` is unpacked into a temporary folder, which `close` removes. What was opened lives on.

    >>> with Bundle.read("minilm.bundle") as bundle:  # doctest: +SKIP
    ...     predictor = bundle.open()
    """

    def __init__(self, path: Path, folder: Path, files: tuple[BundleFile, ...], described: Described, owned: ExitStack) -> None:
        self.path = path
        self.files = files
        """All but `SHA256SUMS`, verified."""

        self._folder = folder
        self._described = described
        self._owned = owned

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Bundle:
        """Return the bundle in a folder or a `.zip`; nothing in it is run.

        Raises:
            ModelLoadError: there is none, a file in it is not what it was when it was written (its name is in the message),
                or it has a newer format.
        """
        where = os.fspath(path)
        with ExitStack() as stack:
            folder = Path(path)
            if folder.is_file():
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nograd-")))
                archive.unpack(Path(path), folder)
            elif not folder.is_dir():
                raise ModelLoadError(f"there is no bundle {where}")
            files = verified_files(folder, where)
            described = _described(folder, files, where)
            return cls(Path(path), folder, files, described, stack.pop_all())

    @property
    def settings(self) -> Settings:
        """How the model runs, and what was measured of it."""
        return self._described.settings

    @property
    def signature(self) -> Signature:
        """What the model takes and gives, behind `preprocess`."""
        return self._described.signature

    @property
    def cost(self) -> CostCurve | None:
        """Seconds of a run by size, as they were measured; None where nobody did."""
        return self.settings.curve.cost() if self.settings.curve is not None else None

    @property
    def machine(self) -> Machine | None:
        """Where it was measured."""
        return self.settings.machine

    def differences(self, now: Machine | None = None) -> list[str]:
        """Return how this machine differs from the bundle's: a sentence for each difference (`nograd.runtime.machine`)."""
        then = self.settings.machine
        if then is None:
            return []
        kind = self.settings.kind
        packages = [kind.libraries[0], *([kind.distribution] if kind.distribution else [])]
        return differences(then, now or this_machine(runtimes=runtimes(kind)), packages=packages)

    def trust_reasons(self) -> list[str]:
        """Return what in this bundle is, or names, code that runs when it is opened; empty: opening needs no trust."""
        steps = (self._described.preprocess, self._described.postprocess)
        named = [f"the name of a function to call ({step.name})" for step in steps if isinstance(step, ImportedStep)]
        return [*code_in(self._described), *named]

    def open(
        self,
        *,
        device: str = "auto",
        trusted: bool = False,
        lanes: int | None = None,
        accept_coupled_rows: bool = False,
        clock: Clock = time.perf_counter,
        machine: Machine | None = None,
    ) -> Predictor:
        """Return a Predictor whose `cost` is the bundle's curve.

        On another machine than the bundle's a warning says in what it differs, and the curve is scaled by what two sizes of
        batch take here: 0.3 s of running, at most.

        Args:
            device: `auto`, or one that the backend knows.
            trusted: that you know where the bundle comes from; only one with `trust_reasons` asks.
            lanes: runs side by side, instead of the bundle's.
            accept_coupled_rows: whether rows are batched although they influence each other; the signature says how far.
            clock: gives seconds.
            machine: this one; None finds out.

        Raises:
            ConfigError: the bundle holds or names code, and is not trusted; or the device is not there.
            MissingExtraError: what the backend needs is not installed.
            ModelLoadError: the model cannot be loaded.
        """
        if (reasons := self.trust_reasons()) and not trusted:
            raise ConfigError(
                f"{self.path} holds {' and '.join(reasons)}: opening it runs that; "
                "if you know where it comes from, open it with trusted=True (--trusted)"
            )
        lanes = self.settings.lanes if lanes is None else lanes
        example = read_example(self._described, self._folder)
        predictor = self._predictor(device, lanes, example)
        if example is not None:
            _measure_independence(predictor, self.settings)
        if accept_coupled_rows:
            predictor.backend.signature = accept_coupling(predictor.signature)
        predictor.cost = self.cost
        predictor.name, predictor.provenance = self.settings.name, self._told(lanes)
        if found := self.differences(machine):
            _look_again(predictor, self.settings.name, found, clock)
        return predictor

    def _predictor(self, device: str, lanes: int, example: Any) -> Predictor:
        described, folder = self._described, self._folder
        if described.factory:
            opened = open_factory(described, folder, device=device, lanes=lanes, example=example)
        else:
            digest = digest_of(file for file in self.files if model_files(described)(file.name))
            opened = Opened(open_model(described, folder, device=device, lanes=lanes, digest=digest))
        made = opened.by_factory
        preprocess = read_step(described.preprocess, folder, made.preprocess if made else None)
        postprocess = read_step(described.postprocess, folder, made.postprocess if made else None)
        sample = example if example is None or preprocess is None else [example]
        return Predictor(opened.backend, preprocess=preprocess, postprocess=postprocess, sample=sample, item=described.item)

    def _told(self, lanes: int) -> str:
        settings = msgspec.structs.replace(self.settings, lanes=lanes)
        machine = f", {settings.machine.processor}" if settings.machine is not None else ""
        return f"{settings.backend} {settings.precision}, {settings.layout}; tuned {settings.when}{machine}"

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists: bundle.json's settings, the signature in words, files, differences."""
        plain: dict[str, Any] = msgspec.to_builtins(self.settings)
        sides = {"inputs": self.signature.inputs, "outputs": self.signature.outputs}
        return {
            "path": str(self.path),
            **plain,
            **{side: {spec.name: str(spec) for spec in specs} for side, specs in sides.items()},
            "batching": self.signature.batching,
            "batching_reason": self.signature.reason,
            "size_limits": self.signature.describe_sizes(),
            "independence": None if self.signature.independence is None else self.signature.independence.to_json(),
            "preprocess": _step_told(self._described.preprocess),
            "postprocess": _step_told(self._described.postprocess),
            "factory": self._described.factory,
            "differences": self.differences(),
            "trust_reasons": self.trust_reasons(),
            "files": [{"name": file.name, "bytes": file.size_bytes, "sha256": file.sha256} for file in self.files],
        }

    def close(self) -> None:
        """Remove what a `.zip` was unpacked into."""
        self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _described(folder: Path, files: tuple[BundleFile, ...], where: str) -> Described:
    """Return bundle.json, if the files beside it are those that such a bundle has."""
    names = {file.name for file in files}
    if MANIFEST not in names:
        raise ModelLoadError(f"{where} is no bundle: there is no {MANIFEST} in it")
    described = loads((folder / MANIFEST).read_bytes(), where)
    known = {MANIFEST, EXAMPLE, *REPORTS}
    if isinstance(described.preprocess, TokenizeStep):
        known.add(TOKENIZER)
    is_model = model_files(described)
    for name in sorted(names - known):
        if not is_model(name):
            raise ModelLoadError(f"{where} holds {name}, which a bundle of {described.settings.backend} has no use for")
    return described


def _step_told(step: object) -> str:
    if isinstance(step, TokenizeStep):
        return f"tokenizer.json, cut at {step.max_tokens} tokens" if step.max_tokens else "tokenizer.json"
    if isinstance(step, ImportedStep):
        return step.name
    return "" if step is None else "the factory's"


def _look_again(predictor: Predictor, name: str, found: list[str], clock: Clock) -> None:
    """Warn of another machine, and scale the curve by what runs take here."""
    said = f"{name} was tuned on another machine: {'; '.join(found)}"
    if predictor.cost is not None:
        factor = _factor(predictor, predictor.cost, clock)
        predictor.cost = scaled(predictor.cost, factor)
        said += f"; runs take {factor:.2g} times as long as its curve says, which is scaled by that"
        if not 1 / FAR_OFF <= factor <= FAR_OFF:
            said += ": another backend or layout may be faster here, tune again (nograd tune)"
    warnings.warn(said, stacklevel=3)


def _measure_independence(predictor: Predictor, settings: Settings) -> None:
    """Measure the independence of rows with the bundle's example, for a bundle that does not say it."""
    if settings.kind.runs_module or predictor.signature.independence is not None:
        return  # modules are measured when they are probed
    predictor.backend.signature = measured_signature(
        predictor.run, [predictor.example_part], predictor.signature, precision=settings.precision, backend=settings.backend
    )


def _factor(predictor: Predictor, curve: CostCurve, clock: Clock) -> float:
    part = predictor.example_part
    own = max(1, sum(predictor.signature.sizes_of(part))) if curve.unit == "tokens" else 1
    can_batch = predictor.signature.batching != "alone"

    def run(rows: int) -> object:
        return predictor.run(join([part] * (rows if can_batch else 1), predictor.signature))

    return spot_check(run, curve, own, clock=clock)
