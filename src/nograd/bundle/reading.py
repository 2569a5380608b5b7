"""Bundle: verify a bundle, describe it, and open it as a Predictor."""

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
from nograd.bundle.digests import BundleFile, digest_of, verify_files
from nograd.bundle.manifest import MANIFEST, BundleDescription, BundleSettings, ImportedStep, TokenizeStep, loads
from nograd.bundle.pipeline import EXAMPLE, TOKENIZER, read_example, read_step
from nograd.bundle.recalibration import FAR_OFF, measure_slowdown, scale_curve
from nograd.bundle.source import OpenedModel, list_code, model_files, open_factory, open_model
from nograd.bundle.writing import REPORTS, is_zip
from nograd.core.cost import CostCurve
from nograd.core.tensors import Signature
from nograd.errors import ConfigError, ModelLoadError
from nograd.predictors.predictor import Predictor
from nograd.runtime.machine import Machine, differences, this_machine

__all__ = ["Bundle", "is_bundle"]

Clock = Callable[[], float]


def is_bundle(path: Path) -> bool:
    """Return whether a path is a bundle: a folder with a bundle.json, or a `.zip` file."""
    return (path / MANIFEST).is_file() if path.is_dir() else is_zip(path) and path.is_file()


class Bundle:
    """A tuned model with everything needed to run it. Create it with `Bundle.read`, which verifies every file.

    A bundle is a context manager: a `.zip` is unpacked into a temporary folder, which `close` removes. Opened Predictors remain
    usable.

    >>> with Bundle.read("minilm.bundle") as bundle:  # doctest: +SKIP
    ...     predictor = bundle.open()
    """

    def __init__(
        self, path: Path, folder: Path, files: tuple[BundleFile, ...], described: BundleDescription, owned: ExitStack
    ) -> None:
        self.path = path
        self.files = files
        """Verified files, without `SHA256SUMS`."""

        self._folder = folder
        self._described = described
        self._owned = owned

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read a bundle from a folder or a `.zip` file without running its code.

        Raises:
            ModelLoadError: there is no bundle, a file differs from `SHA256SUMS` (the message names it), or the format is newer.
        """
        where = os.fspath(path)
        with ExitStack() as stack:
            folder = Path(path)
            if folder.is_file():
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nograd-")))
                archive.unpack(Path(path), folder)
            elif not folder.is_dir():
                raise ModelLoadError(f"bundle {where} does not exist")
            files = verify_files(folder, where)
            described = _read_described(folder, files, where)
            return cls(Path(path), folder, files, described, stack.pop_all())

    @property
    def settings(self) -> BundleSettings:
        """How the model runs, and what was measured."""
        return self._described.settings

    @property
    def signature(self) -> Signature:
        """Inputs and outputs of the model after `preprocess`."""
        return self._described.signature

    @property
    def cost(self) -> CostCurve | None:
        """Measured seconds per run by size; None: not measured."""
        return self.settings.curve.cost() if self.settings.curve is not None else None

    @property
    def machine(self) -> Machine | None:
        """Machine that measured the bundle."""
        return self.settings.machine

    def differences(self, now: Machine | None = None) -> list[str]:
        """Return the differences between this machine and the bundle's, one sentence each (`nograd.runtime.machine`)."""
        then = self.settings.machine
        if then is None:
            return []
        kind = self.settings.kind
        packages = [kind.libraries[0], *([kind.distribution] if kind.distribution else [])]
        return differences(then, now or this_machine(runtimes=runtimes(kind)), packages=packages)

    def trust_reasons(self) -> list[str]:
        """Return the parts of this bundle that run code when it is opened. If the list is empty, opening needs no trust."""
        steps = (self._described.preprocess, self._described.postprocess)
        named = [f"the name of a function to call ({step.name})" for step in steps if isinstance(step, ImportedStep)]
        return [*list_code(self._described), *named]

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
        """Open the bundle as a Predictor whose `cost` is the bundle's curve.

        If this is not the machine that tuned the bundle, a warning lists the differences, and the curve is scaled by the run
        times of two batch sizes measured here. Measuring takes at most 0.3 s of run time.

        Args:
            device: `auto`, or a device of the backend.
            trusted: True confirms that you trust the source of the bundle. Only bundles with `trust_reasons` need it.
            lanes: number of concurrent runs; default: the bundle's.
            accept_coupled_rows: whether to batch rows that influence each other; see `Signature.independence`.
            clock: returns the time in seconds.
            machine: description of this machine; None: detect it.

        Raises:
            ConfigError: the bundle contains or names code and is not trusted, or the device does not exist.
            MissingExtraError: a package that the backend needs is not installed.
            ModelLoadError: the model cannot be loaded.
        """
        if (reasons := self.trust_reasons()) and not trusted:
            raise ConfigError(
                f"{self.path} contains {' and '.join(reasons)}, and opening it runs that code; "
                "if you trust its source, open it with trusted=True (--trusted)"
            )
        lanes = self.settings.lanes if lanes is None else lanes
        example = read_example(self._described, self._folder)
        predictor = self._predictor(device, lanes, example)
        if example is not None:
            _measure_independence(predictor, self.settings)
        if accept_coupled_rows:
            predictor.backend.signature = accept_coupling(predictor.signature)
        predictor.cost = self.cost
        predictor.name, predictor.provenance = self.settings.name, self._provenance(lanes)
        if found := self.differences(machine):
            _recalibrate(predictor, self.settings.name, found, clock)
        return predictor

    def _predictor(self, device: str, lanes: int, example: Any) -> Predictor:
        described, folder = self._described, self._folder
        if described.factory:
            opened = open_factory(described, folder, device=device, lanes=lanes, example=example)
        else:
            digest = digest_of(file for file in self.files if model_files(described)(file.name))
            opened = OpenedModel(open_model(described, folder, device=device, lanes=lanes, digest=digest))
        made = opened.by_factory
        preprocess = read_step(described.preprocess, folder, made.preprocess if made else None)
        postprocess = read_step(described.postprocess, folder, made.postprocess if made else None)
        sample = example if example is None or preprocess is None else [example]
        return Predictor(opened.backend, preprocess=preprocess, postprocess=postprocess, sample=sample, item=described.item)

    def _provenance(self, lanes: int) -> str:
        settings = msgspec.structs.replace(self.settings, lanes=lanes)
        machine = f", {settings.machine.processor}" if settings.machine is not None else ""
        return f"{settings.backend} {settings.precision}, {settings.layout}; tuned {settings.when}{machine}"

    def to_json(self) -> dict[str, Any]:
        """Return the settings of bundle.json, the signature as text, the files and the machine differences as JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(self.settings)
        sides = {"inputs": self.signature.inputs, "outputs": self.signature.outputs}
        return {
            "path": str(self.path),
            **plain,
            **{side: {spec.name: str(spec) for spec in specs} for side, specs in sides.items()},
            "batching": self.signature.batching,
            "batching_reason": self.signature.reason,
            "size_limits": self.signature.describe_limits(),
            "independence": None if self.signature.independence is None else self.signature.independence.to_json(),
            "preprocess": _describe_step(self._described.preprocess),
            "postprocess": _describe_step(self._described.postprocess),
            "factory": self._described.factory,
            "differences": self.differences(),
            "trust_reasons": self.trust_reasons(),
            "files": [{"name": file.name, "bytes": file.size_bytes, "sha256": file.sha256} for file in self.files],
        }

    def close(self) -> None:
        """Remove the temporary folder of an unpacked `.zip`."""
        self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _read_described(folder: Path, files: tuple[BundleFile, ...], where: str) -> BundleDescription:
    """Read bundle.json and check that the folder contains only files that belong to such a bundle."""
    names = {file.name for file in files}
    if MANIFEST not in names:
        raise ModelLoadError(f"{where} is not a bundle: it contains no {MANIFEST}")
    described = loads((folder / MANIFEST).read_bytes(), where)
    known = {MANIFEST, EXAMPLE, *REPORTS}
    if isinstance(described.preprocess, TokenizeStep):
        known.add(TOKENIZER)
    is_model = model_files(described)
    for name in sorted(names - known):
        if not is_model(name):
            raise ModelLoadError(f"{where} contains {name}, which does not belong in a bundle of {described.settings.backend}")
    return described


def _describe_step(step: object) -> str:
    if isinstance(step, TokenizeStep):
        return f"tokenizer.json, cut at {step.max_tokens} tokens" if step.max_tokens else "tokenizer.json"
    if isinstance(step, ImportedStep):
        return step.name
    return "" if step is None else "the factory's"


def _recalibrate(predictor: Predictor, name: str, found: list[str], clock: Clock) -> None:
    """Warn that the machine differs, and scale the cost curve to run times measured here."""
    message = f"{name} was tuned on another machine: {'; '.join(found)}"
    if predictor.cost is not None:
        factor = _factor(predictor, predictor.cost, clock)
        predictor.cost = scale_curve(predictor.cost, factor)
        message += f"; runs take {factor:.2g} times as long as its curve predicts, so the curve is scaled"
        if not 1 / FAR_OFF <= factor <= FAR_OFF:
            message += ": another backend or layout may be faster here, tune again (nograd tune)"
    warnings.warn(message, stacklevel=3)


def _measure_independence(predictor: Predictor, settings: BundleSettings) -> None:
    """Measure row independence with the bundle's example if the bundle does not record it."""
    if settings.kind.runs_module or predictor.signature.independence is not None:
        return  # probing measures the independence of modules
    predictor.backend.signature = measured_signature(
        predictor.run, [predictor.example_part], predictor.signature, precision=settings.precision, backend=settings.backend
    )


def _factor(predictor: Predictor, curve: CostCurve, clock: Clock) -> float:
    part = predictor.example_part
    own = max(1, sum(predictor.signature.sizes_of(part))) if curve.unit == "tokens" else 1
    can_batch = predictor.signature.batching != "alone"

    def run(rows: int) -> object:
        return predictor.run(join([part] * (rows if can_batch else 1), predictor.signature))

    return measure_slowdown(run, curve, own, clock=clock)
