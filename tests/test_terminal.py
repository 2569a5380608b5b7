"""Text of a remote server on a terminal: its control characters are shown, and do nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from nograd.cli import cached_responses as cache_tools
from nograd.cli.application import app
from nograd.runtime.terminal import escape_controls

EVIL = "m\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202edlrow"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text\n\twith 日本語 and é", "plain text\n\twith 日本語 and é"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\rb\x08c\x7f", "a\\x0db\\x08c\\x7f"),
        ("\x9b2J", "\\x9b2J"),
        ("abc\u202efed\u2066", "abc\\u202efed\\u2066"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


@pytest.mark.parametrize("command", [("cache", "stats"), ("cache", "clear")])
def test_cache_commands_escape_the_servers_text(monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    answer = {"models": [{"name": EVIL, "cache": None}], "cleared": EVIL, "kept_in": ""}
    monkeypatch.setattr(cache_tools, "_request_json", lambda *_: json.loads(json.dumps(answer)))

    ended = CliRunner().invoke(app, [*command, "http://127.0.0.1:1"])

    assert ended.exit_code == 0
    assert "m\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\x0d\\u202edlrow" in ended.stdout
    assert ended.stdout.isascii()


@contextmanager
def evil_server() -> Iterator[str]:
    from tests.bad_servers import METADATA, Handler, Server

    class Evil(Handler):
        def reply(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
            super().reply(
                500 if self.command == "POST" else status, {"error": EVIL} if self.command == "POST" else value, headers
            )

    import threading

    server = Server("")
    server.RequestHandlerClass = Evil
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"{server.url}/v2/models/{METADATA['name']}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("command", [("bench", "--requests", "4", "--warmup", "0s", "--clients", "1"), ("conformance",)])
def test_what_a_server_answers_is_escaped(command: tuple[str, ...]) -> None:
    with evil_server() as url:
        ended = CliRunner().invoke(app, [command[0], url, *command[1:]])

    assert ended.exit_code == 1
    assert not [letter for letter in ended.output if letter != "\n" and not letter.isprintable()]
