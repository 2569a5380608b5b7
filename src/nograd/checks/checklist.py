"""Run the deployment checklist on a model or a server."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nograd.checks import registry
from nograd.checks.drain import serve_command, started
from nograd.checks.families import FAMILIES
from nograd.checks.subject import ModelSubject, model_subject, torch_subject
from nograd.client.http import ServerSubject, server_subject
from nograd.core.inputs import is_module
from nograd.errors import ConfigError, ModelLoadError
from nograd.predictors.predictor import Predictor
from nograd.report.finding import Finding, Report
from nograd.report.verdict import Check, run_checks
from nograd.sources import load

if TYPE_CHECKING:
    from torch import nn

    from nograd.backends import Backend
    from nograd.core.cost import CostCurve

__all__ = ["check"]

NO_MODEL = "the target is a server, whose model cannot be examined; also check the model itself"
NO_MODULE = "backend {backend!r} has no eager torch module to examine"
NO_SERVER = "no server was given; also check its URL, or start one with --deep (deep=True)"
NO_NAME = "a server can only be started for a model name that `nograd serve` accepts"
NOT_OURS = "this check stops the server, so it only runs on a server that it started: give the model's name and --deep"


def check(  # noqa: PLR0913
    model: nn.Module | Predictor | Backend | str,
    sample: Any = None,
    *,
    deep: bool = False,
    max_batch_size: int = 32,
    only: Iterable[str] = (),
    curve: CostCurve | None = None,
    memory_bytes: int | None = None,
    trusted: bool = False,
    device: str = "auto",
) -> Report:
    """Run the deployment checklist on a model or a running server.

    The state of a model is restored after the checks, except for changes that every call makes.

    >>> import torch, nograd
    >>> report = nograd.check(torch.nn.Linear(4, 3).eval(), torch.randn(2, 4))
    >>> report.worst, report.exit_code()
    ('info', 0)

    Args:
        model: a module with its `sample`; a predictor or backend; a name, as `nograd.load` takes it; or the URL of a
            server, or of one of its models.
        sample: inputs that the module can run.
        deep: run slow checks as well: exports, tracing, quantization, and for a model with a name also a server that is
            started for the checks.
        max_batch_size: rows of the largest batch that will be served.
        only: families to run; default: all.
        curve: the expected cost curve; some of its sizes are measured again.
        memory_bytes: memory limit of the process where it will run, in bytes; default: the free memory of this machine or
            container.
        trusted: for names of files that contain programs: True confirms that you trust their source.
        device: for names: `auto`, or a torch device.

    Returns:
        A finding for each check: also for those that passed, and for those that could not run, with the reason.

    Raises:
        ConfigError: a setting is out of its range, or a module comes without a sample.
        ModelLoadError: the model does not exist, or no server answers at the URL.
        SignatureError: the model cannot run the sample.
    """
    chosen = _families(only)
    begun = time.monotonic()
    if isinstance(model, str) and model.startswith(("http://", "https://")):
        target, findings = model, list(_of_server(server_subject(model), chosen, deep=deep))
    else:
        target, predictor = _name_and_predictor(model, sample, trusted=trusted, device=device)
        subject = model_subject(predictor, name=target, max_batch_size=max_batch_size, curve=curve, memory_bytes=memory_bytes)
        findings = list(_of_model(subject, chosen, deep=deep))
        findings += _of_started(model if isinstance(model, str) else "", subject, chosen, deep=deep, trusted=trusted)
    order = {family: position for position, family in enumerate(FAMILIES)}
    findings.sort(key=lambda finding: order[finding.family])
    return Report(target, tuple(findings), time.monotonic() - begun)


def _families(only: Iterable[str]) -> frozenset[str]:
    chosen = frozenset([only] if isinstance(only, str) else only) or frozenset(FAMILIES)
    for family in chosen:
        if family not in FAMILIES:
            raise ConfigError(f"only is {family!r}; families are {', '.join(FAMILIES)}")
    return chosen


def _name_and_predictor(model: Any, sample: Any, *, trusted: bool, device: str) -> tuple[str, Predictor]:
    """Return the name and the predictor of the model to check."""
    if isinstance(model, str):
        return model, load(model, trusted=trusted, device=device)
    name = type(model).__name__
    if isinstance(model, Predictor):
        if sample is not None:
            raise ConfigError("a Predictor has its own sample; give it there: nograd.Predictor(model, sample=...)")
        return name, model
    if sample is None and is_module(model):
        raise ConfigError("sample is None; a module is checked with inputs that it can run: nograd.check(model, sample)")
    return name, Predictor(model, sample=sample)


def _chosen(checks: Iterable[Check[Any]], families: frozenset[str]) -> list[Check[Any]]:
    return [each for each in checks if each.family in families]


def _of_server(server: ServerSubject, families: frozenset[str], *, deep: bool) -> Iterator[Finding]:
    models: tuple[Check[Any], ...] = (*registry.MODELS, *registry.MODULES, *registry.MODELS_LAST)
    yield from run_checks(_chosen(models, families), None, deep=deep, why_not=NO_MODEL)
    yield from run_checks(_chosen(registry.SERVERS, families), server, deep=deep)
    yield from run_checks(_chosen(registry.STARTED, families), None, deep=deep, why_not=NOT_OURS)


def _of_model(subject: ModelSubject, families: frozenset[str], *, deep: bool) -> Iterator[Finding]:
    inner = torch_subject(subject)
    why_not = NO_MODULE.format(backend=subject.predictor.backend.name)
    yield from run_checks(_chosen(registry.MODELS, families), subject, deep=deep)
    yield from run_checks(_chosen(registry.MODULES, families), inner, deep=deep, why_not=why_not)
    yield from run_checks(_chosen(registry.MODELS_LAST, families), subject, deep=deep)


def _of_started(name: str, subject: ModelSubject, families: frozenset[str], *, deep: bool, trusted: bool) -> Iterator[Finding]:
    """Start a server for the model, check it, and stop it."""
    checks, stop = _chosen(registry.SERVERS, families), _chosen(registry.STARTED, families)
    if not deep or not name or not checks:
        why_not = NO_SERVER if not deep else NO_NAME
        yield from run_checks([*checks, *stop], None, deep=True, why_not=why_not)
        return
    try:
        with started(serve_command(name, trusted=trusted, max_batch_size=subject.max_batch_size)) as server:
            yield from run_checks(checks, server.server, deep=True)
            yield from run_checks(stop, server, deep=True)
    except ModelLoadError as failure:
        first, *rest = run_checks([*checks, *stop], None, deep=True, why_not=str(failure))
        yield replace(first, severity="error", remedy=f"nograd serve {name}")
        yield from rest
