"""Other servers, each as its own documentation would have it serve the same models: a Linear(16, 4), and MiniLM.

Batches of at most 32 rows, 2 ms of waiting where there is such a setting, two torch threads, one worker. A peer lives in an
environment of its own beside the results; torch and transformers it takes from ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

__all__ = ["OURS", "PEERS", "Peer", "Run", "body_of", "environment_of", "installed"]

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent / "results" / "peers"

TINY, MINILM = "tiny", "minilm"


def _plain(workload: str, item: Any) -> Any:
    return {"input": item} if workload == TINY else {"text": item}


def _listed(workload: str, item: Any) -> Any:
    return {"input": [item]} if workload == TINY else {"text": [item]}


def _v2(workload: str, item: Any) -> Any:
    if workload == TINY:
        return {"inputs": [{"name": "input", "shape": [1, 16], "datatype": "FP32", "data": item}]}
    return {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [item]}]}


class Run(NamedTuple):
    """One start of a server."""

    folder: str
    """Of executables."""

    workload: str
    port: int


Command: TypeAlias = Callable[[Run], Sequence[str]]
"""What starts a server."""


@dataclass(frozen=True, slots=True)
class Peer:
    """How a server is installed, started and asked."""

    command: Command

    path: Callable[[str], str]
    """Workload -> where it answers."""

    body: Callable[[str, Any], Any] = _plain
    """Workload, item -> what to ask."""

    answer: Callable[[Any], Any] = lambda found: found["output"]
    """What it says -> the numbers in it."""

    packages: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    port_variables: Sequence[str] = ()
    """Environment variables that take the port, the next one, and so on."""


def _script(name: str) -> Command:
    return lambda run: [f"{run.folder}/python", str(HERE / name), run.workload, str(run.port)]


PEERS: dict[str, Peer] = {
    "mosec": Peer(
        lambda run: [
            f"{run.folder}/python", str(HERE / "mosec_peer.py"), "--address", "127.0.0.1", "--port", str(run.port),
            "--timeout", "60000",
        ],
        lambda _: "/inference",
        packages=["mosec"],
    ),
    "litserve": Peer(_script("litserve_peer.py"), lambda _: "/predict", packages=["litserve"]),
    "bentoml": Peer(
        lambda run: [
            f"{run.folder}/bentoml", "serve", "bentoml_peer:Service", "--host", "127.0.0.1", "--port", str(run.port),
            "--working-dir", str(HERE),
        ],
        lambda workload: f"/{workload}",
        _listed,
        lambda found: found[0],
        packages=["bentoml"],
        environment={"BENTOML_DO_NOT_TRACK": "True"},
    ),
    "mlserver": Peer(
        lambda run: [f"{run.folder}/mlserver", "start", str(HERE / "mlserver_peer")],
        lambda _: "/v2/models/m/infer",
        _v2,
        lambda found: found["outputs"][0]["data"],
        packages=["mlserver", "uvloop<0.22"],
        environment={
            "MLSERVER_HOST": "127.0.0.1", "MLSERVER_DEBUG": "false", "MLSERVER_PARALLEL_WORKERS": "0",
            "MLSERVER_GRPC_MAX_MESSAGE_LENGTH": str(2**26),
        },
        port_variables=["MLSERVER_HTTP_PORT", "MLSERVER_GRPC_PORT", "MLSERVER_METRICS_PORT"],
    ),
    "pytriton": Peer(
        _script("pytriton_peer.py"),
        lambda _: "/v2/models/m/infer",
        _v2,
        packages=["nvidia-pytriton"],
        # its stub takes the system's libpython, of another patch level, unless told
        environment={"LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR") or ""},
    ),
    "ray": Peer(
        _script("ray_peer.py"),
        lambda _: "/",
        packages=["ray[serve]"],
        environment={"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0", "RAY_DEDUP_LOGS": "0"},
    ),
}  # fmt: skip
"""By name."""

OURS = Peer(
    lambda run: [f"{run.folder}/python", "-m", "nograd", "serve", run.workload, "--name=m", f"--port={run.port}",
        "--cache-size=0"],
    lambda _: "/v2/models/m/infer",
    _v2,
    lambda found: found["outputs"][0]["data"],
)  # fmt: skip
"""nograd; its workload is a MODEL, as `nograd serve` takes it. No cache: the same rows come again."""


def installed(name: str) -> str:
    """Return the folder of executables of a peer's environment, which is made now where there is none."""
    if name not in PEERS:
        return str(Path(sys.executable).parent)
    folder = ENVIRONMENTS / name
    if not (folder / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        inside = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        Path(inside, "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *PEERS[name].packages], check=True)
        (folder / "done").touch()
    return str(folder / "bin")


def environment_of(peer: Peer, folder: str, workload: str, port: int) -> dict[str, str]:
    """Return the environment variables of a server."""
    path = f"{HERE}:{HERE.parent.parent}:{HERE.parent.parent / 'src'}"
    ports = {variable: str(port + each) for each, variable in enumerate(peer.port_variables)}
    return {
        **os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        "PEER_WORKLOAD": workload, "PYTHONPATH": path, "NO_PROXY": "*", **peer.environment, **ports,
    }  # fmt: skip


def body_of(peer: Peer, workload: str, item: Any) -> bytes:
    """Return a request's body."""
    return json.dumps(peer.body(workload, item)).encode()
