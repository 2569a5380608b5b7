"""What docs/clients.md shows is run, against a server of a small model that calls itself minilm."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.running_server import RunningServer, serving

PAGE = (Path(__file__).parent.parent / "docs" / "clients.md").read_text("utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SHELL = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)

ADDRESS = "127.0.0.1:8000"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving("letters", "--name", "minilm") as server:
        yield server


def here(code: str, server: RunningServer) -> str:
    assert ADDRESS in code
    return code.replace(ADDRESS, server.url.removeprefix("http://"))


@pytest.mark.parametrize("code", PYTHON, ids=["nograd", "openai", "tritonclient"])
def test_the_python_of_the_page(code: str, server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(here(code, server), "clients.md", "exec"), {"__name__": "clients"})

    said = re.findall(r"^print\(.*\)  # (.+)$", code, re.MULTILINE)
    assert said
    assert capsys.readouterr().out.splitlines() == said


def test_the_curl_of_the_page(server: RunningServer) -> None:
    lines = here("".join(SHELL).replace("\\\n", ""), server).splitlines()
    assert len(lines) == 2

    answers = []
    for line in lines:
        curl, silent, url, data, body = shlex.split(line)
        assert (curl, silent, data) == ("curl", "-s", "-d")
        answers.append(httpx.post(url, content=body).json())

    assert answers[0]["outputs"][0]["shape"] == [1, 8]
    assert answers[0]["outputs"][0]["data"] == answers[1]["data"][0]["embedding"]
