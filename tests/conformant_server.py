"""A small server that does all that the checklist asks for, as an ASGI application; and does one thing wrong where told to."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from nograd.client.http import Answer
from nograd.conformance.target import Send
from tests.conformant_infer import MODELS, Infer, RefusedError, Reply

EXTENSIONS = ["binary_tensor_data", "model_repository", "statistics", "model_configuration", "schedule_policy"]


@dataclass
class Conformant:
    """The application; `fault` is what it does wrong."""

    fault: str = ""
    loaded: set[str] = field(default_factory=lambda: set(MODELS))
    rows: int = 0

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        body = (await receive())["body"]
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        status, kind, extra, out = self.answer(scope["method"], scope["raw_path"].decode(), headers, body)
        listed = [(b"content-type", kind.encode()), *((name.encode(), value.encode()) for name, value in extra.items())]
        await send({"type": "http.response.start", "status": status, "headers": listed})
        await send({"type": "http.response.body", "body": out})

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str, dict[str, str], bytes]:
        """Return status, content type, headers and body."""
        try:
            reply = self.route(method, unquote(path), headers, body)
        except RefusedError as refusal:
            return self.error(refusal)
        if isinstance(reply, bytes):
            return 200, "text/plain; version=0.0.4", {}, reply
        out = json.dumps(reply.value).encode()
        if reply.tail is None:
            return reply.status, "application/json", {}, out
        kind = "application/json" if self.fault == "json for octets" else "application/octet-stream"
        extra = {} if self.fault == "no header" else {"inference-header-content-length": str(len(out))}
        return reply.status, kind, extra, out + reply.tail

    def error(self, refusal: RefusedError) -> tuple[int, str, dict[str, str], bytes]:
        if self.fault == "422 for malformed" and refusal.status == 400:
            refusal.status = 422
        said = "something is wrong" if self.fault == "mute about names" else str(refusal)
        if self.fault == "html errors":
            return refusal.status, "text/html", {}, f"<h1>{said}</h1>".encode()
        if self.fault == "detail errors":
            return refusal.status, "application/json", {}, json.dumps({"detail": said}).encode()
        if self.fault == "tracebacks":
            said = f"Traceback (most recent call last): {said}"
        return refusal.status, "application/json", {}, json.dumps({"error": said}).encode()

    def route(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply | bytes:
        fault = self.fault
        if path == "/metrics" and fault != "no metrics":
            return b"# TYPE requests_total counter\nrequests_total 1\n"
        plain: dict[str, Callable[[], Reply]] = {
            "/v2/health/live": lambda: Reply({"live": True}, 503 if fault == "not live" else 200),
            "/v2/health/ready": lambda: Reply({"ready": True}, 503 if fault == "not ready" else 200),
            "/v2": self.metadata,
            "/v2/models/stats": self.statistics,
        }
        if fault != "no slash":
            plain["/v2/"] = self.metadata
        if path in plain:
            self.require(method, "GET")
            return plain[path]()
        if path.startswith("/v2/repository/"):
            return self.repository(path, body)
        if path.startswith("/v2/models/"):
            return self.model(method, path, headers, body)
        raise RefusedError(400 if fault == "400 for unknown paths" else 404, f"nothing is at {path}")

    def require(self, method: str, wanted: str) -> None:
        if method != wanted:
            raise RefusedError(400 if self.fault == "400 for methods" else 405, f"it takes {wanted}")

    def metadata(self) -> Reply:
        extensions = [*EXTENSIONS, "statistics"] if self.fault != "no extensions" else []
        told = {"name": "conformant", "version": "1", "extensions": extensions}
        return Reply({key: value for key, value in told.items() if (key, self.fault) != ("version", "no version")})

    # Repository

    def repository(self, path: str, body: bytes) -> Reply:
        fault = self.fault
        if path == "/v2/repository/index":
            if fault == "no index":
                raise RefusedError(404, "nothing is here")
            ready = json.loads(body or b"{}").get("ready", False)
            if not isinstance(ready, bool) and fault != "any index":
                raise RefusedError(400, "ready is true or false")
            return Reply([{"name": name, "version": "1", "reason": "", **self.state(name)} for name in MODELS])
        *_, name, action = path.split("/")
        if name not in MODELS and fault != "loads anything":
            raise RefusedError(400, f"there is no model {name}")
        if action == "load":
            if name in self.loaded and fault == "no reload":
                raise RefusedError(400, f"{name} is loaded")
            self.loaded.add(name)
        elif fault != "stays loaded":
            self.loaded.discard(name)
        return Reply({})

    def state(self, name: str) -> dict[str, str]:
        return {} if self.fault == "no states" else {"state": "READY" if name in self.loaded else "UNAVAILABLE"}

    # One model

    def model(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        name, *rest = path.removeprefix("/v2/models/").split("/")
        if self.fault == "any case":
            name = {each.lower(): each for each in MODELS}.get(name.lower(), name)
        if rest[:1] == ["versions"]:
            version, *rest = rest[1:]
            if (version != "1" and self.fault != "any version") or (self.fault == "no versioned infer" and rest == ["infer"]):
                raise RefusedError(404, f"there is no version {version}")
        if name not in MODELS and self.fault == "ready for all" and rest == ["ready"]:
            return Reply({"name": name, "ready": True})
        if name not in self.loaded:
            raise RefusedError(404, f"there is no model {name}")
        if rest == ["infer"]:
            self.require(method, "POST")
            infer = Infer(self.fault)
            reply = infer.answer(name, headers, body)
            self.rows += infer.rows
            return reply
        self.require(method, "GET")
        return self.about(name, rest)

    def about(self, name: str, rest: list[str]) -> Reply:
        known: dict[str, Callable[[], Reply]] = {
            "": lambda: self.described(name), "ready": lambda: Reply({"name": name, "ready": True}),
            "stats": self.statistics, "config": lambda: self.config(name),
        }  # fmt: skip
        if "/".join(rest) not in known:
            raise RefusedError(404, f"nothing is at {rest}")
        return known["/".join(rest)]()

    def described(self, name: str) -> Reply:
        told: dict[str, Any] = {"name": name, "versions": ["1"], "platform": "test", **MODELS[name]}
        if self.fault == "no outputs told":
            del told["outputs"]
        if self.fault == "no platform":
            del told["platform"]
        return Reply(told)

    def statistics(self) -> Reply:
        one = {"count": 1, "ns": 1}
        times = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
        batch = {"batch_size": 1, "compute_input": one, "compute_infer": one, "compute_output": one}
        count = 0 if self.fault == "counts nothing" else self.rows
        listed = [
            {"name": name, "version": "1", "last_inference": 1, "inference_count": count, "execution_count": count,
             "inference_stats": dict.fromkeys(times[self.fault == "no success":], one), "batch_stats": [batch]}
            for name in MODELS
        ]  # fmt: skip
        return Reply({"model_stats": listed})

    def config(self, name: str) -> Reply:
        if self.fault == "no config":
            raise RefusedError(404, "nothing is here")
        told: dict[str, Any] = {"name": name, "max_batch_size": 64}
        for key, mine in (("inputs", "input"), ("outputs", "output")):
            told[mine] = [
                {"name": each["name"], "data_type": f"TYPE_{each['datatype']}", "dims": each["shape"][1:]}
                for each in MODELS[name][key]
            ]
        if self.fault == "config without size":
            del told["max_batch_size"]
        return Reply(told)


def sender(app: Conformant) -> Send:
    """Return what sends a request to an application in this process, without sockets."""

    def send(method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        begun = time.monotonic()
        listed = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": method, "path": unquote(path), "raw_path": path.encode(), "headers": listed}
        said: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def reply(message: dict[str, Any]) -> None:
            said.append(message)

        asyncio.run(app(scope, receive, reply))
        start, rest = said
        found = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], found, rest["body"], time.monotonic() - begun)

    return send
