"""The table of HTTP routes: method, path, handler and schema of each. Dispatch and the OpenAPI document read it.

A new route is one row here, a handler in `handlers` and, if its body or answer is new, a schema in `openapi_schemas`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote

from nograd.errors import MethodError, ModelNotFoundError
from nograd.server.http import handlers
from nograd.server.http.handlers import Request
from nograd.server.http.replies import Reply

__all__ = ["ROUTES", "Found", "Route", "find_route"]

Handler: TypeAlias = Callable[[Request], Awaitable[Reply]]

INFER_STATUSES = (400, 404, 413, 500, 501, 503, 504)
"""Error statuses of requests that run a model."""

MODEL = "/v2/models/{model}"
VERSION = f"{MODEL}/versions/{{version}}"
REPOSITORY = "/v2/repository"
OPENAI_MODEL = "/v1/models/{model}"

LONGEST_CACHED_PATH = 512
"""Bytes. A longer path is parsed for every request, so that the cache of parsed paths stays small."""


class Route(NamedTuple):
    """One method of one path."""

    method: str
    """`GET` (which answers HEAD, too) or `POST`."""

    path: str
    """Placeholders in braces match one segment of the path; the last one of `/v1/models/{model}` matches the rest."""

    handler: Handler
    name: str
    """Operation id in the OpenAPI document."""

    summary: str
    answer: str
    """Name of the answer's schema, or its content type if it is not JSON."""

    errors: tuple[int, ...] = ()
    """Statuses of errors besides 401."""

    body: str = ""
    """Name of the body's schema; empty: no body."""

    changes_state: bool = False
    """True: requests of other sites' web pages are refused (`origins.StateGuard`)."""

    @property
    def is_repository(self) -> bool:
        """True for routes that exist only with the repository extension."""
        return self.path.startswith(REPOSITORY)


def _model_routes() -> Iterator[Route]:
    """Yield the routes below a model, and below one of its versions."""
    for base, suffix in ((MODEL, ""), (VERSION, "_version")):
        yield Route(
            "GET", base, handlers.model_metadata, f"model_metadata{suffix}", "Name, versions and tensors of a model",
            "ModelMetadata", (404,),
        )  # fmt: skip
        yield Route(
            "GET", f"{base}/ready", handlers.model_ready, f"model_ready{suffix}", "Readiness of a model", "ModelReady", (404,)
        )
        yield Route(
            "POST", f"{base}/infer", handlers.infer, f"infer{suffix}", "Run a model", "InferAnswer", INFER_STATUSES,
            "InferRequest",
        )  # fmt: skip
        yield Route(
            "GET", f"{base}/stats", handlers.statistics, f"model_statistics{suffix}",
            "Counts and durations of a model, in Triton's form", "Statistics", (404,),
        )  # fmt: skip
        yield Route(
            "GET", f"{base}/config", handlers.model_configuration, f"model_configuration{suffix}",
            "Configuration of a model, in Triton's form", "ModelConfig", (404,),
        )  # fmt: skip


ROUTES: tuple[Route, ...] = (
    Route("GET", "/", handlers.page, "live_page", "Live page", "text/html"),
    Route("GET", "/page/{file}", handlers.page, "page_file", "File of the live page", "*/*", (404,)),
    Route("GET", "/live.json", handlers.live_data, "live", "Data of the live page", "Live"),
    Route("GET", "/openapi.json", handlers.openapi, "openapi", "This document", "Document"),
    Route("GET", "/metrics", handlers.metrics, "metrics", "Metrics in Prometheus' text format", "text/plain"),
    Route(
        "POST", "/cache/clear", handlers.clear_cache, "clear_cache", "Clear the cache in memory", "Cleared", (400, 403),
        changes_state=True,
    ),
    Route("GET", "/v2", handlers.server_metadata, "server_metadata", "Name, version and extensions", "ServerMetadata"),
    Route("GET", "/v2/", handlers.server_metadata, "server_metadata_too", "Same as /v2", "ServerMetadata"),
    Route("GET", "/health", handlers.server_ready, "health", "Readiness of all models, as /v2/health/ready", "ServerReady"),
    Route("GET", "/healthz", handlers.server_live, "healthz", "Liveness, as /v2/health/live", "ServerLive"),
    Route("GET", "/v2/health/live", handlers.server_live, "server_live", "Liveness", "ServerLive"),
    Route("GET", "/v2/health/ready", handlers.server_ready, "server_ready", "Readiness of all models", "ServerReady"),
    Route(
        "GET", "/v2/models/stats", handlers.statistics, "statistics", "Counts and durations of all models, in Triton's form",
        "Statistics",
    ),
    *_model_routes(),
    Route(
        "POST", f"{REPOSITORY}/index", handlers.repository_index, "repository_index",
        "List the models that are served or can be loaded", "RepositoryIndex", (400, 403), "RepositoryIndexRequest",
        changes_state=True,
    ),
    Route(
        "POST", f"{REPOSITORY}/models/{{model}}/load", handlers.repository_load, "repository_load",
        "Load or reload a model; the response comes when it is warm", "Changed", (400, 403, 404, 503), "Change",
        changes_state=True,
    ),
    Route(
        "POST", f"{REPOSITORY}/models/{{model}}/unload", handlers.repository_unload, "repository_unload",
        "Unload a model; the response comes when its memory is free", "Changed", (400, 403, 404), "Change", changes_state=True,
    ),
    Route("GET", "/v1/models", handlers.list_embedders, "list_models", "Models that return embeddings", "OpenAIModels"),
    Route(
        "GET", OPENAI_MODEL, handlers.describe_embedder, "retrieve_model", "One of these models", "OpenAIModel", (404,)
    ),
    Route(
        "POST", "/v1/embeddings", handlers.embeddings, "create_embeddings", "Embeddings of texts", "Embeddings",
        INFER_STATUSES, "EmbeddingsRequest",
    ),
)  # fmt: skip

Found: TypeAlias = tuple[Route, Mapping[str, str]]
"""A route, and the values of its placeholders."""


def find_route(method: str, raw: bytes, files: Container[str], models: Container[str] = ()) -> Found:
    """Return the route of a request, and the values in its path.

    Args:
        method: HTTP's.
        raw: path as sent; segments may be percent-encoded.
        files: paths of the live page's files.
        models: names of served models; those with slashes are found as they are, too.

    Raises:
        ModelNotFoundError: no route has this path.
        MethodError: the path has other methods.
    """
    path = raw.partition(b"?")[0]
    find = _routes_of_path if len(path) <= LONGEST_CACHED_PATH else _routes_of_path.__wrapped__
    found = find(path.decode("latin-1")) or _with_slashes(path.decode("latin-1").split("/"), models)
    if not found or (found[0][0].handler is handlers.page and unquote(path.decode("latin-1")) not in files):
        raise ModelNotFoundError(_describe_missing(unquote(path.decode("latin-1"))))
    for route, names in found:
        if method == route.method or (method == "HEAD" and route.method == "GET"):
            return route, names
    allowed = [each for route, _ in found for each in (("GET", "HEAD") if route.method == "GET" else (route.method,))]
    given = unquote(path.decode("latin-1"))
    raise MethodError(f"{given} takes {' or '.join(allowed)}, not {method}", tuple(allowed))


@lru_cache(maxsize=1024)
def _routes_of_path(path: str) -> tuple[Found, ...]:
    """Return the routes that match a path; a route without placeholders excludes the others."""
    exact: tuple[Found, ...] = tuple((route, {}) for route in ROUTES if route.path == path or route.path == unquote(path))
    if exact:
        return exact
    given = path.split("/")
    return tuple(
        (route, names)
        for route in ROUTES
        for segments in _spellings(route.path, given)
        if (names := _match(route.path.split("/"), segments)) is not None
    )


def _with_slashes(given: list[str], models: Container[str]) -> tuple[Found, ...]:
    """Return the routes that match if the slashes in a model's name were sent as they are: those with most fixed segments.

    The repository takes any name, because it can load models that are not served.
    """
    found: list[tuple[int, Found]] = []
    for route in ROUTES:
        pattern = route.path.split("/")
        more = len(given) - len(pattern)
        if more <= 0 or "{model}" not in pattern:
            continue
        at = pattern.index("{model}")
        segments = [*given[:at], "/".join(given[at : at + more + 1]), *given[at + more + 1 :]]
        names = _match(pattern, segments)
        if names is not None and (route.is_repository or names["model"] in models):
            found.append((sum(not each.startswith("{") for each in pattern), (route, names)))
    most = max((fixed for fixed, _ in found), default=0)
    return tuple(each for fixed, each in found if fixed == most)


def _spellings(path: str, given: list[str]) -> Iterator[list[str]]:
    """Yield the segments of a request's path, as one route may read them."""
    if path == OPENAI_MODEL:
        yield [*given[:3], "/".join(given[3:])]  # OpenAI's clients send a slash in a name as it is
        return
    yield given
    if path.startswith(REPOSITORY):
        yield [*given[:3], *given[4:]]  # Triton allows the repository's own name before the call


def _match(pattern: Sequence[str], given: Sequence[str]) -> dict[str, str] | None:
    """Return the values of a pattern's placeholders; None if the path does not match."""
    if len(pattern) != len(given):
        return None
    names: dict[str, str] = {}
    for expected, segment in zip(pattern, given, strict=True):
        if expected.startswith("{"):
            names[expected[1:-1]] = unquote(segment)
        elif expected != unquote(segment):
            return None
    return names if all(names.values()) else None


def _describe_missing(path: str) -> str:
    """Return the error for a path without a route: it lists the paths below the same prefix."""
    if path.startswith("/v2/models/"):
        actions = [route.path.removeprefix(MODEL) for route in ROUTES if route.path.startswith(MODEL)]
        known = " and ".join(f"'{each}'" for each in actions if each and not each.startswith("/versions"))
        return f"there is nothing at {path}; a model has '', {known}"
    if path.startswith(f"{REPOSITORY}/"):
        return f"there is nothing at {path}; the repository has {', '.join(each.path for each in ROUTES if each.is_repository)}"
    return f"there is nothing at {path}; the protocol's paths begin with /v2, /openapi.json has all"
