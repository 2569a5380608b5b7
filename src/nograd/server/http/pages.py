"""The files of the live page: everything in `page/`, with index.html at `/`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import PurePath

from nograd.server.http.replies import Reply

__all__ = ["PAGE_HEADERS", "page_replies"]

KINDS: Mapping[str, bytes] = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}

PAGE_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-cache"),
)


def page_replies() -> dict[str, Reply]:
    """Return the reply of each file, by path."""
    folder = files("nograd.server.http").joinpath("page")
    found = sorted((each.name, each) for each in folder.iterdir() if PurePath(each.name).suffix in KINDS)
    return {_path(name): Reply(200, KINDS[PurePath(name).suffix], each.read_bytes()) for name, each in found}


def _path(name: str) -> str:
    return "/" if name == "index.html" else f"/page/{name}"
