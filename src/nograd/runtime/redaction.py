"""Credentials in URLs, masked for everything that is printed or logged. Pure."""

from __future__ import annotations

import re

__all__ = ["MASK", "is_masked", "mask_credentials", "mask_url"]

MASK = "***"
"""Replaces user and password, and the values of a query."""

_USER = re.compile(r"(?<=://)[^\s/?#'\"<>]*@")
"""User and password of a URL within a text; a password's own @ belongs to it."""


def mask_url(url: str) -> str:
    """Return a URL without user, password and the values of its query; a text that is not a URL as it is.

    A password with characters that should be escaped (`/`, `?`, `#`, `@`) is masked too: everything up to the last `@` is.

    >>> mask_url("redis://user:p/w@host:6379/0?password=x&db=1")
    'redis://***@host:6379/0?password=***&db=***'
    >>> mask_url("bundles/minilm.bundle")
    'bundles/minilm.bundle'
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    credentials, sign, rest = rest.rpartition("@")
    user = f"{MASK}@" if sign and credentials else sign
    plain, query, parameters = rest.partition("?")
    plain, fragment, _ = plain.partition("#")
    if query:
        parameters, fragment, _ = parameters.partition("#")
    names = [name for name, _, _ in (each.partition("=") for each in parameters.split("&"))] if query else []
    masked = "&".join(f"{name}={MASK}" for name in names)
    return f"{scheme}{mark}{user}{plain}{query}{masked}{fragment and f'#{MASK}'}"


def mask_credentials(text: str) -> str:
    """Return a text in which the URLs have no user and password.

    >>> mask_credentials("cannot connect to redis://:secret@host:6379/0 (refused)")
    'cannot connect to redis://***@host:6379/0 (refused)'
    """
    return _USER.sub(f"{MASK}@", text) if "@" in text else text


def is_masked(url: str) -> bool:
    """Return whether `mask_url` has taken something from a URL.

    >>> is_masked(mask_url("redis://:secret@host")), is_masked("redis://host/0")
    (True, False)
    """
    return f"://{MASK}@" in url or f"={MASK}" in url
