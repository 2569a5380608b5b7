"""Items of the checklist: demanded by the protocol (must), expected by Triton's clients (compat), or useful; and their
verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from nograd.client.http import Answer
from nograd.conformance.target import ServerTarget
from nograd.report.verdict import Check, Verdict, error, passed, skipped

__all__ = [
    "PROBES",
    "Case",
    "Cases",
    "announced",
    "answered",
    "compat",
    "describe_answer",
    "expect",
    "judge_cases",
    "must",
    "probed",
    "refused",
    "useful",
]

Case: TypeAlias = tuple[str, str, Answer, bool]
"""Request in words, expected response in words, actual response, and True if they match."""

Cases: TypeAlias = Iterable[Case]

Run: TypeAlias = Callable[[ServerTarget], Verdict]

NO_REQUEST = "a request built from the model's metadata does not get 200 (model.M4); give a valid request with --data"


PROBES: Mapping[str, tuple[str, str]] = {
    "statistics": ("GET", "{model}/stats"),
    "model_configuration": ("GET", "{model}/config"),
    "model_repository": ("POST", "/v2/repository/index"),
}
"""Extension -> method and path that it must serve."""


def probed(target: ServerTarget, extension: str) -> Case:
    """Request an extension's path; the case expects it to exist."""
    method, path = PROBES[extension]
    path = path.format(model=target.path)
    answer = target.get(path) if method == "GET" else target.post(path, b"{}")
    is_there = 0 < answer.status < 500 and answer.status not in (404, 405)
    return f"announced extension {extension}: {method} {path}", "that it exists", answer, is_there


def describe_answer(answer: Answer) -> str:
    """Return a response as one short line."""
    return f"{answer.status or 'no response'}: {answer.text[:160]}" if answer.text else str(answer.status or "no response")


def expect(what: str, answer: Answer, *statuses: int) -> Case:
    """Return a case that expects one of some statuses."""
    return what, " or ".join(map(str, statuses)), answer, answer.status in statuses


def refused(what: str, answer: Answer) -> Case:
    """Return a case that expects any 4xx status; the protocol says "typically 400"."""
    return what, "a 4xx status", answer, 400 <= answer.status < 500


def judge_cases(cases: Cases) -> Verdict:
    """Return the verdict on some cases: the first three failures, or the number of passed cases."""
    tried = list(cases)
    wrong = [
        f"{what}: expected {expected}, got {describe_answer(answer)}"
        for what, expected, answer, is_right in tried
        if not is_right
    ]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return error("; ".join(wrong[:3]) + more, tried=float(len(tried)), wrong=float(len(wrong)))
    return passed(", ".join(f"{what} {answer.status}" for what, _, answer, _ in tried), tried=float(len(tried)))


def must(id_: str, title: str, done: str, run: Run, rule: str) -> Check[ServerTarget]:
    """Return an item that the specification demands; a failure is an error."""
    return Check(id_, title, done, run, "", "error", rule=rule)


def compat(id_: str, title: str, done: str, run: Run, rule: str) -> Check[ServerTarget]:
    """Return an item that the specification leaves open and clients rely on; a failure is a warning."""

    def mildly(target: ServerTarget) -> Verdict:
        verdict = run(target)
        return replace(verdict, severity="warning") if verdict.severity == "error" else verdict

    return Check(id_, title, done, mildly, "", "warning", rule=rule)


def useful(id_: str, title: str, done: str, run: Run, rule: str) -> Check[ServerTarget]:
    """Return an item that no specification demands but that helps clients; a failure is an info."""

    def gently(target: ServerTarget) -> Verdict:
        verdict = run(target)
        return replace(verdict, severity="info") if verdict.severity == "error" else verdict

    return Check(id_, title, done, gently, "", "info", rule=rule)


def announced(extension: str, run: Run) -> Run:
    """Skip an item if the server does not announce its extension, or announces it without serving it."""

    def perhaps(target: ServerTarget) -> Verdict:
        if extension not in target.extensions:
            return skipped(f"the server does not announce the extension {extension}")
        if extension in PROBES and not probed(target, extension)[3]:
            return skipped(f"the extension {extension} is announced but does not exist: see server.R4")
        return run(target)

    return perhaps


def answered(run: Callable[[ServerTarget, Answer], Verdict | Iterator[Case]]) -> Run:
    """Skip an item if the model answers no request; else pass the response to `run`, and judge the cases that it yields."""

    def perhaps(target: ServerTarget) -> Verdict:
        if target.base is None:
            return skipped(NO_REQUEST)
        found = run(target, target.base)
        return found if isinstance(found, Verdict) else judge_cases(found)

    return perhaps
