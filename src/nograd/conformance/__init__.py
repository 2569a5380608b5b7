"""`nograd conformance`: the Open Inference Protocol's checklist, executed against any server."""

from __future__ import annotations

import json
import time
from pathlib import Path

from nograd.client.http import server_subject
from nograd.conformance import answers, binary, inference, models, repository, server, statistics
from nograd.conformance import grpc as over_grpc
from nograd.conformance.calling import Call, calling
from nograd.conformance.target import Target, examined
from nograd.errors import ConfigError
from nograd.report.finding import Report
from nograd.report.verdict import Check, run_checks

__all__ = ["EVERY", "OVER_GRPC", "conformance", "examine", "examine_grpc"]

READING: tuple[Check[Target], ...] = (
    *server.ITEMS, *models.ITEMS, *inference.ITEMS, *answers.ITEMS, *binary.ITEMS, *repository.ITEMS, *statistics.ITEMS,
)  # fmt: skip
"""Items that leave the server as it was."""

CHANGING: tuple[Check[Target], ...] = repository.CHANGING
"""Items that change it for a moment."""

EVERY: tuple[Check[Target], ...] = (*READING, *CHANGING)
"""All items over HTTP."""

OVER_GRPC: tuple[Check[over_grpc.GrpcTarget], ...] = over_grpc.ITEMS
"""All items over gRPC."""

NOT_ASKED = "it would load and unload the model: --repository runs it"


def conformance(
    url: str, *, data: Path | None = None, repository: bool = False, grpc: str = "", timeout_s: float = 30.0
) -> Report:
    """Examine a server.

    Args:
        url: of a server, whose first model is taken, or of one of its models.
        data: a file with a request that the model answers; default: one made of the model's metadata.
        repository: also load and unload the model.
        grpc: host and port where the same server speaks gRPC; empty: that is not examined.
        timeout_s: seconds that one request may take.

    Returns:
        A finding for each item: an error where the specification is broken, a warning where clients of Triton are.

    Raises:
        ConfigError: it is no URL of http or https, or the data hold no request.
        ModelLoadError: nothing answers there, or nothing tells which models there are.
        MissingExtraError: gRPC is asked for, and not installed.
    """
    found = server_subject(url, timeout_s=timeout_s)
    request = found.example
    if data is not None:
        try:
            request = json.loads(data.read_bytes().split(b"\n", 1)[0])
        except ValueError as failure:
            raise ConfigError(f"the first line of {data} is no JSON: {failure}") from None
        if not isinstance(request, dict) or not request.get("inputs"):
            raise ConfigError(f'the first line of {data} is no infer request: a JSON object with "inputs"')
    begun = time.monotonic()
    if not grpc:
        findings = examine(examined(found.send, found.model, request), repository=repository).findings
    else:
        with calling(grpc, timeout_s) as call:  # whether it answers is told first
            target = examined(found.send, found.model, request)
            findings = (*examine(target, repository=repository).findings, *examine_grpc(target, call).findings)
    name = f"{found.model} at {found.url}" + (f" ({found.server})" if found.server else "")
    return Report(name, findings, time.monotonic() - begun, "conformance")


def examine(target: Target, *, repository: bool) -> Report:
    """Return a finding for each item, in the order of the checklist; with `repository` also for what changes the server."""
    findings = [*run_checks(READING, target, deep=True)]
    if repository:
        findings += run_checks(CHANGING, target, deep=True)
    else:
        findings += run_checks(CHANGING, None, deep=True, why_not=NOT_ASKED)
    return Report(target.model, tuple(findings), tool="conformance")


def examine_grpc(target: Target, call: Call) -> Report:
    """Return a finding for each item of gRPC.

    Args:
        target: the server over HTTP.
        call: calls it over gRPC.
    """
    findings = run_checks(OVER_GRPC, over_grpc.GrpcTarget(call, target), deep=True)
    return Report(target.model, tuple(findings), tool="conformance")
