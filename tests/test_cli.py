"""The `nograd` command: what it says, and how it ends when it cannot do what it was told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from nograd import __version__
from nograd.cli.application import app
from nograd.errors import ConfigError
from tests.running_server import FOLDER
from tests.waiting import HANG_S

ACCEPTED = (
    "the model must be a bundle, a transformers folder, a .onnx, .xml, .pt2 or .pt file, 'package.module:factory', "
    "or 'minilm' (the demo)"
)


def nograd(*arguments: str, cwd: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "nograd", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def refusal(ended: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a command that could not do what it was told."""
    assert (ended.returncode, ended.stdout) == (2, "")
    (said,) = [line for line in ended.stderr.splitlines() if line.split(" ")[1:2] != ["info"]]  # a server has begun to start
    assert said.startswith("nograd: ")
    return said.removeprefix("nograd: ")


def test_the_version_is_printed() -> None:
    ended = nograd("--version")

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"nograd {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], ["A trained PyTorch model in; fast, correct, measured inference out.", "serve"]),
        (
            ["serve", "--help"],
            ["--port", "--max-batch-size", "--max-wait", "--max-queue-rows", "--timeout", "--grace", "--name"],
        ),
    ],
    ids=["nograd", "serve"],
)
def test_help_names_every_command_and_option(arguments: list[str], said: list[str]) -> None:
    ended = nograd(*arguments)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert all(word in ended.stdout for word in said)


COMMANDS = [(), *((name,) for name in typer.main.get_group(app).commands), ("cache", "stats"), ("cache", "clear")]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_prints_its_help(command: tuple[str, ...], option: str) -> None:
    ended = CliRunner().invoke(app, [*command, option])

    assert ended.exit_code == 0
    assert ended.stdout.startswith("Usage: ")
    assert "-h, --help" in ended.stdout


@pytest.mark.parametrize("group", [(), ("cache",)], ids=["nograd", "cache"])
def test_a_group_without_a_command_prints_its_help(group: tuple[str, ...]) -> None:
    ended = CliRunner().invoke(app, group)

    assert (ended.exit_code, ended.stdout) == (0, CliRunner().invoke(app, [*group, "--help"]).stdout)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("nothing", f"there is no model 'nothing'; {ACCEPTED}"),
        ("no_such_module:factory", "module 'no_such_module' is not found, from "),
        ("served_models:nothing", "module served_models has no 'nothing'; callables in it: "),
        ("served_models:not_callable", "served_models:not_callable is str; it must be a function without arguments"),
        ("served_models:no_model", "served_models:no_model returned str; it must return a nograd.Predictor or a torch.nn."),
        ("served_models:raising", "served_models:raising raised RuntimeError: the weights are gone"),
        ("served_models:bare", "served_models:bare returned a bare module, whose inputs are unknown; return nograd."),
        (".", ". is a folder without config.json or bundle.json; the model must be a bundle, a"),
    ],
)
def test_a_model_that_cannot_be_served_is_one_sentence_and_nothing_listens(model: str, said: str) -> None:
    port = free_port()

    message = refusal(nograd("serve", model, "--port", str(port)))

    assert message.startswith(said)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_port_in_use_is_one_sentence_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = refusal(nograd("serve", "nothing", "--port", str(port)))

    assert message == f"port {port} on 127.0.0.1 is in use by another program; choose another with --port, or 0 for a free one"


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_this_machines_is_one_sentence(host: str) -> None:
    message = refusal(nograd("serve", "nothing", "--host", host, "--port", "0"))

    assert message.startswith(f"cannot listen on {host}:0: ")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--port", "70000", "port is 70000; it must be from 0 to 65535"),
        ("--max-batch-size", "0", "max_batch_size is 0; it must be at least 1"),
        ("--max-wait", "-1", "max_wait is '-1'; it must be a time such as 2ms or 1s"),
        ("--timeout", "nan", "timeout is 'nan'; it must be a time such as 90s or 2m"),
    ],
)
def test_a_setting_out_of_range_raises_an_error_of_one_sentence(option: str, value: str, said: str) -> None:
    failed = CliRunner().invoke(app, ["serve", "nothing", option, value]).exception

    assert isinstance(failed, ConfigError)
    assert str(failed) == said


def test_such_an_error_is_the_only_line_of_the_command() -> None:
    assert refusal(nograd("serve", "nothing", "--port", "70000")) == "port is 70000; it must be from 0 to 65535"


def test_an_unknown_device_is_one_sentence() -> None:
    message = refusal(nograd("serve", "served_models:example", "--device", "toaster", "--port", "0"))

    assert message.startswith("device is 'toaster'; torch cannot use it here: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve"], "there is no model to serve; name one"),
        (["serve", "m", "--prot", "1"], "No such option: --prot"),
        (["servo"], "No such command 'servo'"),
    ],
)
def test_a_command_line_that_cannot_be_read_says_what_is_wrong(arguments: list[str], said: str) -> None:
    ended = nograd(*arguments)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr


def test_a_users_own_file_is_found_where_they_stand(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def factory():\n    raise ValueError('found')\n")

    assert refusal(nograd("serve", "mine:factory", "--port", "0", cwd=tmp_path)) == "mine:factory raised ValueError: found"


def test_a_users_file_that_cannot_be_imported_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("1 / 0\n")

    assert (
        refusal(nograd("serve", "mine:factory", "--port", "0", cwd=tmp_path))
        == "importing mine raised ZeroDivisionError: division by zero"
    )


MISFIT = """
import torch

def factory():
    model = torch.nn.Linear(4, 2)
    model.example_input_array = torch.zeros(1, 3)
    return model
"""


def test_a_sample_that_its_model_cannot_run_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MISFIT)

    assert "1x3 and 4x2" in refusal(nograd("serve", "mine:factory", "--port", "0", cwd=tmp_path))
