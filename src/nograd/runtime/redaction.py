"""Masking of credentials in URLs for all printed and logged text. Pure."""

from __future__ import annotations

import re

__all__ = ["MASK", "is_masked", "mask_credentials", "mask_url"]

MASK = "***"
"""Replaces user and password, and the values of a query."""

_USER = re.compile(r"(?<=://)[^\s/?#'\"<>]*@")
"""User and password of a URL within a text; the password may contain @."""


def mask_url(url: str) -> str:
    """Return a URL without user, password and the values of its query. Text that is not a URL is returned unchanged.

    Passwords with unescaped characters (`/`, `?`, `#`, `@`) are masked, too: everything up to the last `@` is replaced.

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
    """Mask user and password of all URLs in a text.

    >>> mask_credentials("cannot connect to redis://:secret@host:6379/0 (refused)")
    'cannot connect to redis://***@host:6379/0 (refused)'
    """
    return _USER.sub(f"{MASK}@", text) if "@" in text else text


def is_masked(url: str) -> bool:
    """Return whether `mask_url` has masked something in a URL.

    >>> is_masked(mask_url("redis://:secret@host")), is_masked("redis://host/0")
    (True, False)
    """
    return f"://{MASK}@" in url or f"={MASK}" in url
