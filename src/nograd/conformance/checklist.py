"""The items of the checklist, and how they are run against a server."""

from __future__ import annotations

import json
import time
from pathlib import Path

from nograd.client.http import server_subject
from nograd.conformance import answers, binary, inference, models, repository, server, statistics
from nograd.conformance import grpc as over_grpc
from nograd.conformance.calling import Call, calling
from nograd.conformance.target import ServerTarget, examined
from nograd.errors import ConfigError
from nograd.report.finding import Report
from nograd.report.verdict import Check, run_checks

__all__ = ["EVERY", "OVER_GRPC", "conformance", "examine", "examine_grpc"]

READING: tuple[Check[ServerTarget], ...] = (
    *server.ITEMS, *models.ITEMS, *inference.ITEMS, *answers.ITEMS, *binary.ITEMS, *repository.ITEMS, *statistics.ITEMS,
)  # fmt: skip
"""Items that do not change the server."""

CHANGING: tuple[Check[ServerTarget], ...] = repository.CHANGING
"""Items that change the server for a moment."""

EVERY: tuple[Check[ServerTarget], ...] = (*READING, *CHANGING)
"""All items over HTTP."""

OVER_GRPC: tuple[Check[over_grpc.GrpcTarget], ...] = over_grpc.ITEMS
"""All items over gRPC."""

WHY_NOT_CHANGED = "it would load and unload the model: --repository runs it"


def conformance(
    url: str, *, data: Path | None = None, repository: bool = False, grpc: str = "", timeout_s: float = 30.0
) -> Report:
    """Run the checklist against a server.

    Args:
        url: URL of a server, whose first model is used, or of one of its models.
        data: a file whose first line is a request that the model answers; default: a request made from the model's
            metadata.
        repository: also load and unload the model.
        grpc: host and port of the same server's gRPC; empty: the items over gRPC do not run.
        timeout_s: maximum seconds of one request.

    Returns:
        A finding for each item: an error if the specification is violated, a warning if only Triton's clients are affected.

    Raises:
        ConfigError: the URL is not an http or https URL, or the data contain no request.
        ModelLoadError: no server answers at the URL, or its models are unknown.
        MissingExtraError: gRPC is requested and not installed.
    """
    found = server_subject(url, timeout_s=timeout_s)
    request = found.example
    if data is not None:
        try:
            request = json.loads(data.read_bytes().split(b"\n", 1)[0])
        except ValueError as failure:
            raise ConfigError(f"the first line of {data} is not JSON: {failure}") from None
        if not isinstance(request, dict) or not request.get("inputs"):
            raise ConfigError(f'the first line of {data} is not an infer request: a JSON object with "inputs"')
    begun = time.monotonic()
    if not grpc:
        findings = examine(examined(found.send, found.model, request), repository=repository).findings
    else:
        with calling(grpc, timeout_s) as call:  # reports first whether the gRPC server answers
            target = examined(found.send, found.model, request)
            findings = (*examine(target, repository=repository).findings, *examine_grpc(target, call).findings)
    name = f"{found.model} at {found.url}" + (f" ({found.server})" if found.server else "")
    return Report(name, findings, time.monotonic() - begun, "conformance")


def examine(target: ServerTarget, *, repository: bool) -> Report:
    """Return a finding for each item, in the order of the checklist; with `repository` also for CHANGING items."""
    findings = [*run_checks(READING, target, deep=True)]
    if repository:
        findings += run_checks(CHANGING, target, deep=True)
    else:
        findings += run_checks(CHANGING, None, deep=True, why_not=WHY_NOT_CHANGED)
    return Report(target.model, tuple(findings), tool="conformance")


def examine_grpc(target: ServerTarget, call: Call) -> Report:
    """Return a finding for each gRPC item.

    Args:
        target: the server over HTTP.
        call: calls the server over gRPC.
    """
    findings = run_checks(OVER_GRPC, over_grpc.GrpcTarget(call, target), deep=True)
    return Report(target.model, tuple(findings), tool="conformance")
