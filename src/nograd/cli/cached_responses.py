"""Cached responses of a running server or in Redis, for `nograd cache`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from nograd.errors import ConfigError, UnavailableError
from nograd.runtime.redaction import mask_url

__all__ = ["clear", "figures", "lines"]

TIMEOUT_S = 10.0


def figures(url: str) -> dict[str, Any]:
    """Return the figures of the cache at a URL: of a server by model, of Redis as a whole.

    Raises:
        UnavailableError: nothing answers at the URL.
        ConfigError: the URL belongs neither to a server nor to Redis.
        MissingExtraError: the URL belongs to Redis, and redis-py is not installed.
    """
    if not url.startswith(("http://", "https://")):
        found = _redis(url).usage()
        return {"server": found.server, "entries": found.entries, "bytes": found.nbytes}
    models = _request_json(f"{url.rstrip('/')}/live.json", "GET")["models"]
    return {"models": [{"name": model["name"], "cache": model.get("cache")} for model in models]}


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return the figures of a cache as lines for readers."""
    if "models" not in found:
        count = f"{found['entries']} response{'' if found['entries'] == 1 else 's'}"
        return [f"{found['server']}: {count}, {found['bytes'] / 1e6:.1f} MB of keys and values"]
    return [line for model in found["models"] for line in _of_model(model["name"], model["cache"])] or [
        "the server holds no model"
    ]


def clear(url: str) -> str:
    """Clear the cache at a URL; return a sentence with the number of responses. It raises the errors of `figures`."""
    if url.startswith(("http://", "https://")):
        found = _request_json(url.rstrip("/") + "/cache/clear", "POST")
        stays = f"; {found['kept_in']} keeps its own: clear that URL, too" if found.get("kept_in") else ""
        return f"{found['cleared']} answers forgotten{stays}"
    cache = _redis(url)
    entries = cache.usage().entries
    cache.clear()
    return f"{entries} answers forgotten"


def _of_model(name: str, cache: dict[str, Any] | None) -> list[str]:
    if cache is None:
        return [f"{name}: keeps no answers"]
    share = cache["hits"] / max(1, cache["rows"])
    lines = [
        f"{name}: {cache['rows']} rows looked up, {cache['hits']} known ({share:.1%}), "
        f"{cache['saved_ms'] / 1000:.3g} s of the device saved",
        f"  memory: {cache['entries']} answers of all models, {cache['bytes'] / 1e6:.1f} of {cache['max_bytes'] / 1e6:.1f} MB, "
        f"{cache['evicted']} evicted ({cache['policy']})",
    ]
    if not cache["is_on"]:
        lines.append("  it steps aside now, because it cost more than it saved; it will be tried again")
    if (remote := cache["redis"]) is not None:
        lines.append(
            f"  Redis: {remote['hits']} of {remote['hits'] + remote['misses']} found, {remote['failures']} calls failed, "
            f"{remote['skipped']} left out, {remote['corrupt']} corrupt"
            + (f"; last error: {remote['last_error']}" if remote["last_error"] else "")
        )
    return lines


def _redis(url: str) -> Any:
    if "://" not in url:
        raise ConfigError(
            "the URL has no scheme; give a server's, http://127.0.0.1:8000, or a Redis', redis://localhost:6379/0"
        )
    from nograd.caching.redis import RedisCache

    return RedisCache(url, timeout_s=TIMEOUT_S)


def _request_json(url: str, method: str) -> Any:
    try:
        with urlopen(Request(url, method=method), timeout=TIMEOUT_S) as answer:  # noqa: S310  the scheme was checked
            return json.loads(answer.read())
    except (URLError, OSError, ValueError) as error:
        raise UnavailableError(f"{mask_url(url)} does not answer as a nograd server does: {error}") from error
