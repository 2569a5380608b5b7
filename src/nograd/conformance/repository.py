"""P: the extension model_repository. Loading and unloading run only on request, because others may use the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from nograd.client.http import Answer
from nograd.conformance.item import Case, announced, answered, expect, judge_cases, must, refused
from nograd.conformance.server import UNKNOWN
from nograd.conformance.target import ServerTarget
from nograd.report.verdict import Check, Verdict

__all__ = ["CHANGING", "ITEMS"]

STATES = ("UNKNOWN", "READY", "UNAVAILABLE", "LOADING", "UNLOADING")


def index(target: ServerTarget) -> Verdict:
    """Check item P1."""

    def cases() -> Iterator[Case]:
        for what, body in (("an empty body", b""), ("{}", b"{}"), ('{"ready": true}', b'{"ready": true}')):
            answer = target.post("/v2/repository/index", body)
            yield f"index with {what}", f"a list with {target.model}, READY", answer, _lists(answer, target.model)
        wrong = target.post("/v2/repository/index", b'{"ready": "x"}')
        yield refused('index with {"ready": "x"}', wrong)

    return judge_cases(cases())


def _lists(answer: Answer, model: str) -> bool:
    found: Any = answer.json
    if answer.status != 200 or not isinstance(found, list):
        return False
    if not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in found):
        return False
    return all(each.get("state") in STATES for each in found) and any(
        each["name"] == model and each["state"] == "READY" for each in found
    )


def unknown(target: ServerTarget) -> Verdict:
    """Check item P2 with an unknown model."""
    answer = target.post(f"/v2/repository/models/{UNKNOWN}/load", b"")
    return judge_cases([refused("load of an unknown model", answer)])


def reload(target: ServerTarget, _base: Answer) -> Iterator[Case]:
    """Check item P2."""
    yield expect("load of a loaded model", _post_action(target, "load"), 200)
    yield expect("a request after it", target.infer(target.request), 200)


def unload(target: ServerTarget, _base: Answer) -> Iterator[Case]:
    """Check item P3."""
    yield expect("unload", _post_action(target, "unload"), 200)
    yield expect("a request after it", target.infer(target.request), 400, 404, 503)
    yield expect("load", _post_action(target, "load"), 200)
    yield expect("a request after it", target.infer(target.request), 200)


def _post_action(target: ServerTarget, what: str) -> Answer:
    return target.post(f"/v2/repository/models/{quote(target.model, safe='')}/{what}", b"")


SOURCE = "Triton, extension_model_repository.md"

ITEMS: tuple[Check[ServerTarget], ...] = (
    must("repository.P1", "The index lists models and their states", "read the index", announced("model_repository", index),
         f'{SOURCE}: "The index API returns information about every model available in a model repository, even if it is not '
         'currently loaded"; $repository_index_response: name, version, state, reason'),
    must("repository.P2-unknown", "An unknown model cannot be loaded", "loaded an unknown model",
         announced("model_repository", unknown),
         f'{SOURCE}: "A failed load request must be indicated by an HTTP error status (typically 400)"'),
)  # fmt: skip

CHANGING: tuple[Check[ServerTarget], ...] = (
    must("repository.P2", "A loaded model can be loaded again", "loaded it, and sent a request",
         announced("model_repository", answered(reload)),
         f'{SOURCE}: "The load API requests that a model be loaded into Triton, or reloaded if the model is already loaded... '
         'A successful load request is indicated by a 200 HTTP status"'),
    must("repository.P3", "A model can be unloaded and loaded", "unloaded it, loaded it, and sent requests",
         announced("model_repository", answered(unload)),
         f'{SOURCE}: "The unload API requests that a model be unloaded... A successful unload request is indicated by a 200 '
         'HTTP status"'),
)  # fmt: skip
"""Items that change the server for a moment."""
