"""Load: check a server under many simultaneous requests: same answers, quick refusals, still alive. Part of the family
`serving`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nograd.client.http import Answer, ServerSubject
from nograd.client.requests import request_of, same_numbers, tiled, varied
from nograd.report.verdict import Check, Verdict, error, passed, skipped, warning

__all__ = ["CHECKS"]

CLIENTS = 16

BURST, BURST_ROWS = 48, 32
"""Number of simultaneous requests, and rows of each: 1,536 rows, more than nograd's queue of 1,024 accepts."""

QUICK_S = 2.0
"""Maximum seconds of a refusal. A slower one is useless, because the client could have waited."""


def check_concurrent(server: ServerSubject) -> Verdict:
    """Send different requests alone, then all at once, and compare the answers."""
    request = request_of(server)
    if request is None:
        return skipped("the metadata list no inputs, so no request can be built")
    bodies = [varied(request, index) for index in range(CLIENTS)]
    alone = [server.infer(body) for body in bodies]
    if any(answer.status != 200 for answer in alone):
        return skipped("some varied requests fail: see serving.answer")
    together = _at_once(server, bodies)
    pairs = zip(alone, together, strict=True)
    wrong = [own for own, other in pairs if other.status == 200 and not same_numbers(own, other)]
    lost = [answer for answer in together if answer.status != 200]
    figures = {"requests": float(CLIENTS), "different": float(len(wrong)), "failed": float(len(lost))}
    if wrong:
        return error(f"{len(wrong)} of {CLIENTS} simultaneous requests got another answer than alone", **figures)
    if lost:
        return error(
            f"{len(lost)} of {CLIENTS} simultaneous requests failed, such as {lost[0].status}: {lost[0].text}", **figures
        )
    return passed(f"{CLIENTS} simultaneous requests got the same answers as alone", **figures)


def _at_once(server: ServerSubject, bodies: Sequence[Mapping[str, Any]]) -> list[Answer]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(server.infer, bodies))


def check_overload(server: ServerSubject) -> Verdict:
    """Send a burst, check its refusals, and send one more request."""
    request = request_of(server)
    if request is None:
        return skipped("the metadata list no inputs, so no request can be built")
    burst = _at_once(server, [tiled(varied(request, index % CLIENTS), BURST_ROWS) for index in range(BURST)])
    return _judge_burst(burst, server.infer(request))


def _judge_burst(burst: Sequence[Answer], after: Answer) -> Verdict:
    """Decide from the answers to a burst and to one request after it."""
    counts = Counter(answer.status for answer in burst)
    counts_text = ", ".join(f"{count} x {status or 'no answer'}" for status, count in sorted(counts.items()))
    figures = {f"status_{status}": float(count) for status, count in counts.items()}
    said = f"{len(burst)} simultaneous requests of {BURST_ROWS} rows: {counts_text}"
    if after.status != 200:
        return error(f"{said}; a later request got {after.status or 'no response'}: {after.text}", **figures)
    bad = [answer for answer in burst if answer.status not in (200, 413, 429, 503, 504)]
    if bad:
        return error(f"{said}; such as: {bad[0].text}", **figures)
    refused = [answer for answer in burst if answer.status in (429, 503)]
    rude = [answer for answer in refused if "retry-after" not in answer.headers]
    if rude:
        return warning(f"{said}; {len(rude)} rejections have no Retry-After header", **figures)
    late = [answer.seconds for answer in refused if answer.seconds > QUICK_S]
    if late:
        return warning(f"{said}; {len(late)} rejections took more than {QUICK_S:g} s, up to {max(late):.3g} s", **figures)
    return passed(f"{said}; later requests succeed", **figures)


CHECKS: tuple[Check[ServerSubject], ...] = (
    Check(
        "serving.concurrent", "Simultaneous requests do not mix", "sent different requests one by one, then simultaneously",
        check_concurrent, "look for state in the model, and for outputs that are split at the wrong rows", "error",
    ),
    Check(
        "serving.overload", "The server rejects overload quickly, and recovers", "sent a burst, then one more request",
        check_overload, "nograd serve MODEL --max-queue-rows 256  # reject early, with Retry-After", "error",
    ),
)  # fmt: skip
