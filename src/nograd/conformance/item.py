"""Items of the checklist: what the protocol demands (must), what clients of Triton expect (compat), how they are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from nograd.client.http import Answer
from nograd.conformance.target import Target
from nograd.report.verdict import Check, Verdict, error, passed, skipped

__all__ = [
    "PROBES",
    "Case",
    "Cases",
    "announced",
    "answered",
    "compat",
    "expect",
    "judged",
    "must",
    "probed",
    "refused",
    "told",
    "useful",
]

Case: TypeAlias = tuple[str, str, Answer, bool]
"""What was sent, what was expected, what came, whether that is it."""

Cases: TypeAlias = Iterable[Case]

Run: TypeAlias = Callable[[Target], Verdict]

NO_REQUEST = "a request made of the model's metadata is not answered with 200 (model.M4): give one that is, with --data"


PROBES: Mapping[str, tuple[str, str]] = {
    "statistics": ("GET", "{model}/stats"),
    "model_configuration": ("GET", "{model}/config"),
    "model_repository": ("POST", "/v2/repository/index"),
}
"""Extension -> the path that it must have."""


def probed(target: Target, extension: str) -> Case:
    """Ask for an extension's path: a case that wants it to be there."""
    method, path = PROBES[extension]
    path = path.format(model=target.path)
    answer = target.get(path) if method == "GET" else target.post(path, b"{}")
    is_there = 0 < answer.status < 500 and answer.status not in (404, 405)
    return f"{extension}, announced: {method} {path}", "that it is there", answer, is_there


def told(answer: Answer) -> str:
    """Return an answer in short."""
    return f"{answer.status or 'nothing'}: {answer.text[:160]}" if answer.text else str(answer.status or "nothing")


def expect(what: str, answer: Answer, *statuses: int) -> Case:
    """Return a case that wants one of some statuses."""
    return what, " or ".join(map(str, statuses)), answer, answer.status in statuses


def refused(what: str, answer: Answer) -> Case:
    """Return a case that wants a client's error, of whatever number: the protocol says "typically 400"."""
    return what, "a 4xx status", answer, 400 <= answer.status < 500


def judged(cases: Cases) -> Verdict:
    """Return the verdict on some cases: the first three that are not as expected, or how many were."""
    tried = list(cases)
    wrong = [f"{what}: expected {expected}, came {told(answer)}" for what, expected, answer, is_right in tried if not is_right]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return error("; ".join(wrong[:3]) + more, tried=float(len(tried)), wrong=float(len(wrong)))
    return passed(", ".join(f"{what} {answer.status}" for what, _, answer, _ in tried), tried=float(len(tried)))


def must(id_: str, title: str, done: str, run: Run, rule: str) -> Check[Target]:
    """Return an item that the specification demands; failing it is an error."""
    return Check(id_, title, done, run, "", "error", rule=rule)


def compat(id_: str, title: str, done: str, run: Run, rule: str) -> Check[Target]:
    """Return an item that the specification leaves open and clients rely on; failing it is a warning."""

    def mildly(target: Target) -> Verdict:
        verdict = run(target)
        return replace(verdict, severity="warning") if verdict.severity == "error" else verdict

    return Check(id_, title, done, mildly, "", "warning", rule=rule)


def useful(id_: str, title: str, done: str, run: Run, rule: str) -> Check[Target]:
    """Return an item that nobody demands, and that clients are better off with; failing it is an info."""

    def gently(target: Target) -> Verdict:
        verdict = run(target)
        return replace(verdict, severity="info") if verdict.severity == "error" else verdict

    return Check(id_, title, done, gently, "", "info", rule=rule)


def announced(extension: str, run: Run) -> Run:
    """Skip an item where the server does not announce its extension, or does and has it not."""

    def perhaps(target: Target) -> Verdict:
        if extension not in target.extensions:
            return skipped(f"the server does not announce the extension {extension}")
        if extension in PROBES and not probed(target, extension)[3]:
            return skipped(f"the extension {extension} is announced, and not there: see server.R4")
        return run(target)

    return perhaps


def answered(run: Callable[[Target, Answer], Verdict | Iterator[Case]]) -> Run:
    """Skip an item where the model answers no request; else give it the answer, and judge the cases that it yields."""

    def perhaps(target: Target) -> Verdict:
        if target.base is None:
            return skipped(NO_REQUEST)
        found = run(target, target.base)
        return found if isinstance(found, Verdict) else judged(found)

    return perhaps
