"""`nograd serve --ray`, on a real Ray cluster of this machine: the same answers, whatever dies or is replaced meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd.errors import ConfigError
from nograd.ray.actors import CARRIED
from nograd.ray.replicas import ReplicaLoad, Replicas, spare_percent, wanted_replicas
from nograd.ray.serve_command import NOT_ON_RAY, check, check_room
from nograd.server.settings.definition import ServeConfig
from nograd.server.settings.model_config import ModelConfig
from nograd.server.settings.resolution import ResolvedSettings, settle
from tests.bundles import write_texts
from tests.running_server import FOLDER, RunningServer, server_of
from tests.served_models import GATE, GATE_VARIABLE, MARKER_VARIABLE
from tests.test_cli import nograd
from tests.test_many_models import row
from tests.test_ray import processes_with
from tests.test_serve import Gatekeeper
from tests.waiting import HANG_S, wait_until

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # 127.0.0.1 it is; see nograd.ray.address
ray = pytest.importorskip("ray")

MODEL = "tests.served_models:scaled"

# -- decisions


@pytest.mark.parametrize("text", ["", "0", "-1", "3-2", "1-", "-", "many", "1.5", "auto-3"])
def test_what_says_no_number_of_replicas_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Replicas.parse(text)

    assert str(raised.value) == f"replicas is {text!r}; it must be a number, 'auto', or least and most, such as 2-8"


loads = st.lists(st.builds(ReplicaLoad, st.floats(0, 100), st.floats(0, 1)), min_size=1, max_size=50)


@given(loads, st.floats(0.01, 10))
def test_the_replicas_at_most_double_and_at_most_one_goes(of: list[ReplicaLoad], goal_s: float) -> None:
    found = wanted_replicas(of, goal_s)

    assert max(1, len(of) - 1) <= found <= 2 * len(of)
    backlog_s = sum(load.backlog_s for load in of) / len(of)
    assert (found > len(of)) == (backlog_s > goal_s)


@given(loads, st.floats(0.01, 10), st.floats(0, 10))
def test_a_longer_backlog_never_asks_for_fewer(of: list[ReplicaLoad], goal_s: float, more_s: float) -> None:
    longer = [ReplicaLoad(load.backlog_s + more_s, load.busy) for load in of]

    assert wanted_replicas(longer, goal_s) >= wanted_replicas(of, goal_s)


@given(loads, st.floats(0.01, 10))
def test_who_would_be_too_busy_without_one_keeps_it(of: list[ReplicaLoad], goal_s: float) -> None:
    if wanted_replicas(of, goal_s) < len(of):
        assert sum(load.busy for load in of) / (len(of) - 1) < 0.7


@given(st.integers(1, 300), st.integers(1, 600))
def test_one_more_than_there_are_may_run_while_they_are_replaced_and_no_more(most: int, room: int) -> None:
    percent = spare_percent(most, room)

    spares = {(percent * count + 99) // 100 for count in range(1, most + 1)}  # as Ray Serve rounds
    assert max(spares) <= max(0, room - most)
    assert spares == ({1} if room > most else {0}) or most > 100


@pytest.mark.parametrize(
    ("told", "target", "expected"),
    [
        ({}, 3, 3),  # nobody has told anything yet
        ({"a": (5.0, 1.0)}, 1, 2),
        ({"a": (5.0, 1.0)}, 4, 2),  # two are coming that are not asked for any more
        ({"a": (5.0, 1.0), "b": (5.0, 1.0)}, 3, 3),  # one is coming: see first what it changes
        ({"a": (0.0, 0.1), "b": (0.0, 0.1)}, 2, 1),
        ({"a": (0.0, 0.6), "b": (0.0, 0.6)}, 2, 2),
    ],
)
def test_ray_is_told_how_many_by_what_the_replicas_tell(
    told: Mapping[str, tuple[float, float]], target: int, expected: int
) -> None:
    from nograd.ray.scaling import Backlog

    context: Any = SimpleNamespace(
        aggregated_metrics={
            "backlog_s": {name: each[0] for name, each in told.items()},
            "busy": {name: each[1] for name, each in told.items()},
        },
        running_replicas=[*told, "one that has told nothing"],
        target_num_replicas=target,
    )

    assert Backlog(goal_s=1.0)(context) == (expected, {})


ASKED: Mapping[str, Any] = {
    "grpc_port": 0, "workers": 2, "devices": "cuda:0", "tls_cert": "c", "repository": True, "repository_dir": ".",
    "lame_duck_s": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_ON_RAY)
def test_what_there_is_not_on_ray_is_refused(name: str) -> None:
    more: dict[str, Any] = {"tls_key": "k"} if name == "tls_cert" else {}

    with pytest.raises(ConfigError) as raised:
        check(ResolvedSettings(ServeConfig(**{name: ASKED[name]}, **more), (ModelConfig("m"),)), {})

    assert str(raised.value) == f"{name} is {ASKED[name]!r}, and this is to run on Ray: {NOT_ON_RAY[name]}"


def test_keys_in_the_environment_are_refused_because_ray_shows_it() -> None:
    with pytest.raises(ConfigError, match="give the keys in a file that every machine has: --api-keys-file") as raised:
        check(ResolvedSettings(ServeConfig(), (ModelConfig("m"),)), {"NOGRAD_API_KEYS": "secret"})

    assert "secret" not in str(raised.value)
    assert not any("KEY" in name for name in CARRIED)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["m", "--replicas", "2"], "replicas is '2', and there is no --ray: only a cluster has replicas; add --ray"),
        (["m", "--ray", "--replicas", "x"], "replicas is 'x'; it must be a number, 'auto', or least and most, such as 2-8"),
        (["m", "--ray", "--grpc-port", "0"], "grpc_port is 0, and this is to run on Ray"),
        (["m", "--ray-address", "127.0.0.1:1"], "no Ray cluster at '127.0.0.1:1': "),
    ],
)
def test_what_cannot_be_is_told_at_once(arguments: list[str], said: str) -> None:
    ended = nograd("serve", *arguments, "--port", "0")

    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"nograd: {said}"), ended.stderr


def test_replicas_wait_for_room_only_if_the_cluster_may_gain_it(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match="replicas is 9999; with 2 cores and 1 GPU each, this machine has room for 3"):
        check_room(9999, 2, 1, 3, is_local=True)
    check_room(3, 2, 1, 3, is_local=True)
    assert caplog.records == []

    check_room(9999, 1, 0, 3, is_local=False)

    assert [record.getMessage() for record in caplog.records] == ["waits_for_room"]


# -- on a cluster


@pytest.fixture(scope="module")
def gate() -> Iterator[Gatekeeper]:
    keeper = Gatekeeper()
    yield keeper
    keeper.close()


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it is, the model `unfinished` cannot be loaded."""
    return tmp_path_factory.mktemp("ray") / "marker"


@pytest.fixture(scope="module")
def address(gate: Gatekeeper, marker: Path) -> Iterator[str]:
    """Two cores' worth of Ray; its processes see this environment, and this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(FOLDER.parent)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv(GATE_VARIABLE, gate.environment[GATE_VARIABLE])
        patch.setenv(MARKER_VARIABLE, str(marker))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH", "")])))
        ray.init(
            "local", num_cpus=2, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False,
            logging_level="error", _node_ip_address="127.0.0.1",
        )  # fmt: skip
        yield str(ray.get_runtime_context().gcs_address)
        ray.shutdown()


@contextmanager
def replicas_of(model: str, *options: str, address: str) -> Iterator[RunningServer]:
    """Serve on the cluster for as long as the context lasts."""
    with server_of(model, "--ray-address", address, *options, environment={"RAY_USAGE_STATS_ENABLED": "0"}) as server:
        yield server


@pytest.fixture(scope="module")
def two(address: str) -> Iterator[RunningServer]:
    with replicas_of(MODEL, "--replicas", "2", address=address) as server:
        yield server


def tags(server: RunningServer) -> set[str]:
    """Return the names of the replicas, as the metrics have them."""
    text = httpx.get(f"{server.url}/metrics", timeout=HANG_S).text
    lines = [line for line in text.splitlines() if line.startswith("nograd_model_ready{")]
    return {line.partition('replica="')[2].partition('"')[0] for line in lines}


def infer(server: RunningServer, value: float) -> httpx.Response:
    return httpx.post(f"{server.url}/v2/models/scaled/infer", json=row(value), timeout=HANG_S)


def answered(response: httpx.Response, value: float) -> bool:
    """True where the response is the model's answer to that value, to the bit."""
    expected = np.full(16, value, np.float32) * np.float32(1.1)
    data = np.array(response.json()["outputs"][0]["data"], np.float32) if response.status_code == 200 else expected[:0]
    return data.tobytes() == expected.tobytes()


def test_replicas_answer_as_one_server_and_each_tells_its_metrics(two: RunningServer) -> None:
    lines = two.greeting.splitlines()
    assert lines[0] == f"scaled is ready: {two.url}"
    assert "  replicas  2 now, 2 configured" in lines

    assert all(answered(infer(two, float(value)), float(value)) for value in range(40))
    found = tags(two)
    assert len(found) == 2
    text = httpx.get(f"{two.url}/metrics").text
    counts = [float(line.split()[-1]) for line in text.splitlines() if line.startswith("nograd_request_rows_total{")]
    live = [httpx.get(f"{two.url}/live.json").json()["server"] for _ in range(6)]
    assert {each["replica"] for each in live} == {min(found)}  # the page shows one, wherever its question arrives
    assert {tuple(each["replicas"]) for each in live} == {tuple(sorted(found))}
    assert len(counts) in (0, 2)


def test_a_wrong_request_is_told_as_without_ray(two: RunningServer) -> None:
    wrong = httpx.post(f"{two.url}/v2/models/scaled/infer", content=b"{", timeout=HANG_S)
    missing = httpx.get(f"{two.url}/v2/models/other", timeout=HANG_S)

    assert (wrong.status_code, missing.status_code) == (400, 404)
    assert "model 'other'" in missing.json()["error"]


def test_a_replica_that_is_killed_is_started_again_and_the_other_answers(two: RunningServer) -> None:
    before = tags(two)
    killed = _replica_processes()[0]

    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(tags(two) - before) == 1 and len(tags(two)) == 2)

    assert all(answered(infer(two, float(value)), float(value)) for value in range(20))


def _replica_processes() -> list[int]:
    """Return the replicas' processes, by what they call themselves."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::ServeReplica:nograd:server"):
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


def test_all_replicas_are_replaced_under_load_without_a_failed_request(two: RunningServer) -> None:
    before, stop = tags(two), False

    def ask(client: int) -> list[tuple[float, httpx.Response]]:
        found: list[tuple[float, httpx.Response]] = []
        with httpx.Client(timeout=HANG_S) as own:
            while not stop or not found:
                value = float(client * 10_000 + len(found))
                found.append((value, own.post(f"{two.url}/v2/models/scaled/infer", json=row(value))))
        return found

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, client) for client in range(3)]
        two.process.send_signal(signal.SIGHUP)
        try:
            wait_until(lambda: len(tags(two)) == 2 and not tags(two) & before)
        finally:
            stop = True
        responses = [each for asked in asking for each in asked.result()]

    assert [response.text for value, response in responses if not answered(response, value)] == []


def test_a_second_address_on_one_cluster_is_refused(two: RunningServer, address: str) -> None:
    ended = nograd("serve", MODEL, "--ray-address", address, "--port", "9")

    there = two.url.rpartition(":")[2]
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == (
        f"nograd: host and port are 127.0.0.1, 9, and Ray Serve listens on this cluster at 127.0.0.1, {there} already; "
        "use the same, or end it first: serve shutdown"
    )


def test_another_command_takes_the_application_over_and_the_first_one_leaves_it(two: RunningServer, address: str) -> None:
    with replicas_of(MODEL, "--replicas", "1", "--name", "second", address=address) as new:
        assert two.process.wait(HANG_S) == 0

        assert "taken_over" in two.stderr()
        assert httpx.get(f"{new.url}/v2/models/second/ready", timeout=HANG_S).status_code == 200
        assert new.stop() == 0
    wait_until(lambda: not _replica_processes())


def test_a_model_that_does_not_load_any_more_is_told_and_what_answered_still_does(address: str, marker: Path) -> None:
    with replicas_of("tests.served_models:unfinished", "--replicas", "1", address=address) as server:
        before = tags(server)
        marker.touch()

        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "replicas_failed" in server.stderr())

        assert "its file is half written" in server.stderr()
        assert httpx.get(f"{server.url}/v2/health/ready", timeout=HANG_S).status_code == 200
        assert tags(server) == before
        marker.unlink()


def test_a_bundle_that_is_damaged_now_is_told_and_what_answered_still_does(address: str, tmp_path: Path) -> None:
    bundle = write_texts(tmp_path / "texts.bundle")
    with replicas_of(str(bundle), "--replicas", "1", address=address) as server:
        (bundle / "bundle.json").write_text("{")

        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "not_replaced" in server.stderr())

        assert httpx.get(f"{server.url}/v2/health/ready", timeout=HANG_S).status_code == 200


def test_a_model_that_does_not_load_is_one_sentence(address: str) -> None:
    ended = nograd("serve", "tests.broken_models:nothing_here", "--ray-address", address, "--port", "0")

    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("nograd: no replica comes up: module tests.broken_models has no ")
    assert _replica_processes() == []


def test_a_backlog_that_stays_has_a_second_replica_started(address: str, gate: Gatekeeper) -> None:
    options = ("--replicas", "1-2", "--timeout", "200ms", "--cache-size=0", "--max-batch-size=1")  # 20 ms are too long then
    with replicas_of("tests.served_models:gated", *options, address=address) as server, ThreadPoolExecutor(101) as pool:

        def ask(first: float) -> httpx.Response:
            rows = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [first, 1.0]}
            body = {"inputs": [rows], "parameters": {"timeout": int(HANG_S * 1e6)}}
            return httpx.post(f"{server.url}/v2/models/gated/infer", json=body, timeout=HANG_S)

        assert ask(1.0).status_code == 200  # tells what a row costs
        held = pool.submit(ask, GATE)
        with gate.accept():
            waiting = [pool.submit(ask, 1.0) for _ in range(100)]
            wait_until(lambda: _backlog_s(server) > 0.02)
            wait_until(lambda: len(tags(server)) == 2)
        assert {each.result().status_code for each in [held, *waiting]} == {200}


def _backlog_s(server: RunningServer) -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=HANG_S).text
    return max(float(line.split()[-1]) for line in text.splitlines() if line.startswith("nograd_backlog_seconds{"))


def test_a_printed_file_does_the_same_by_rays_own_command(address: str, tmp_path: Path) -> None:
    import yaml

    options = ["--ray", "--replicas", "1", "--port", "0", "--max-batch-size", "7", "--name", "mine"]
    printed = nograd("serve", MODEL, *options, "--print-config")
    content = yaml.safe_load(printed.stdout)
    content["http_options"]["port"] = 0
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(content))

    (told,) = content["applications"]
    replicas = told["args"].pop("replicas")
    assert (replicas, told["import_path"]) == ("1", "nograd.ray.serving:application")
    assert settle(("args", told["args"]), {}, {}).config == ServeConfig(max_batch_size=7)
    from ray import serve

    from nograd.ray.serving import application

    handle = serve.run(application(content["applications"][0]["args"] | {"replicas": "1"}), name="printed", route_prefix="/p")
    assert "mine is ready: there" in handle.greeting.remote("there").result()
    serve.delete("printed")


def test_a_cluster_of_its_own_ends_with_the_server_and_leaves_no_process() -> None:
    short = tempfile.mkdtemp(prefix="ray")  # the names of Ray's sockets begin with it, and have 107 bytes at most
    environment = {"RAY_TMPDIR": short, "PYTHONPATH": os.pathsep.join([str(FOLDER.parent), *sys.path])}

    with server_of(MODEL, "--ray", "--replicas", "1", "--log-format", "text", environment=environment) as server:
        assert answered(infer(server, 3.0), 3.0)
        assert server.stop() == 0
        assert server.rest().splitlines() == ["stopped"]

    assert processes_with(short) == []
    shutil.rmtree(short)
