"""Signals to a server that is not ready yet, and clients that would hold up its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.running_server import RunningServer, server_of

WAIT_S = 60

MODELS = """
import threading
import numpy as np
from nograd import Backend, Predictor, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", (2,)),), (TensorSpec("output", "float32", ("n",)),), reason="independent")

def wait(where):
    print(where, flush=True)
    threading.Event().wait()

class Wide(Backend):
    name, device, signature = "wide", "cpu", SIGNATURE

    def run(self, batch):
        return {"output": np.zeros((len(batch["x"]), 2_000_000), np.float32)}

class NeverWarm(Wide):
    def run(self, batch):
        wait("waiting")

def wide():
    return Predictor(Wide())

def never_loads():
    wait("waiting")

def never_warm():
    return Predictor(NeverWarm())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "waiting_models.py").write_text(MODELS)
    return tmp_path


@contextmanager
def starting(
    folder: Path, model: str, *, prefix: Sequence[str] = (), options: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Run a server that waits while its model loads or warms up."""
    line = [*prefix, sys.executable, "-m", "nograd", "serve", f"waiting_models:{model}", "--port", "0", *options]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        line, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "waiting\n"
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("model", ["never_loads", "never_warm"])
def test_a_signal_before_the_server_is_ready_ends_it_and_the_log_says_so(
    folder: Path, model: str, number: signal.Signals, code: int
) -> None:
    with starting(folder, model, options=["--log-format", "json"]) as process:
        process.send_signal(number)
        _, log = process.communicate(timeout=WAIT_S)

    last = json.loads(log.splitlines()[-1])
    assert process.returncode == code
    assert (last["event"], last["signal"]) == ("stopped", number.name)


def test_a_server_with_workers_ends_while_they_load(folder: Path) -> None:
    with starting(folder, "never_loads", options=["--workers", "2"]) as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_S)

    assert process.returncode == 0


def test_as_process_1_of_a_container_it_ends_as_well(folder: Path) -> None:
    namespace = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a process namespace; run as root")
    with starting(folder, "never_loads", prefix=namespace) as process:
        (child,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        os.kill(child, signal.SIGTERM)
        process.communicate(timeout=WAIT_S)

    assert process.returncode == 0


# -- clients that hold up the end


def answered(server: RunningServer) -> int:
    total: int = httpx.get(f"{server.url}/live.json").json()["models"][0]["totals"]["requests"]
    return total


def connected(server: RunningServer) -> socket.socket:
    """Return a connection that the server has answered on once."""
    url = httpx.URL(server.url)
    client = socket.create_connection((url.host, url.port or 0))
    client.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
    assert client.recv(1000).startswith(b"HTTP/1.1 200")
    return client


@pytest.mark.parametrize("kind", ["does not read", "half a head", "half a body"])
def test_a_client_does_not_hold_up_the_end_beyond_the_grace(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ.get('PYTHONPATH', '')}")
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}).encode()
    request = b"POST /v2/models/wide/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    sent = {"does not read": len(request), "half a head": 30, "half a body": len(request) - 10}[kind]
    with server_of("waiting_models:wide", "--name", "wide", "--grace", "0", "--cache-size", "0") as server:
        with connected(server) as client:
            client.sendall(request[:sent])
            while kind == "does not read" and not answered(server):
                pass
            code = server.stop()

        assert code == 0
        assert "connections_closed" in server.stderr() or kind != "does not read"
