"""Several processes as one server: who serves, who is started again, and what each tells of all."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from nograd.errors import ConfigError, PortInUseError
from nograd.server.run import bind, hold_port
from nograd.server.settings.definition import ServeConfig
from nograd.server.settings.model_config import ModelConfig
from nograd.server.settings.resolution import ResolvedSettings
from nograd.server.workers.merging import merged
from nograd.server.workers.plan import Order, cannot_start, devices_of, only, orders_of, pause_s
from nograd.server.workers.worker_peers import WorkerPeers
from tests.fakes import Site, doubling
from tests.running_server import FOLDER, RunningServer, server_of
from tests.test_cli import nograd
from tests.test_many_models import row
from tests.test_serve import WAIT_S
from tests.waiting import wait_until

# -- decisions


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"workers": 0}, "workers is 0; it must be at least 1"),
        ({"workers": 2, "devices": "a,b,c"}, "workers is 2, for 3 devices (a,b,c); it must be at least 3"),
        ({"devices": "cuda:0", "device": "cpu"}, "devices is 'cuda:0' and device is 'cpu'; give one of them"),
        ({"devices": ","}, "devices is ','; it must be torch devices with commas"),
        ({"workers": 2, "repository": True}, "repository is on and there are workers"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        ServeConfig(**settings)

    assert said in str(raised.value)


def test_each_worker_has_the_next_device_and_the_same_ports() -> None:
    settings = ResolvedSettings(
        ServeConfig(devices="cuda:0, cuda:1", workers=3, port=0, grpc_port=0), (ModelConfig("m"),), {"port": "x"}
    )

    orders = orders_of(settings, "folder", (8000, 8001), {"CUDA_VISIBLE_DEVICES": "4,7"})

    assert devices_of(settings.config) == ["cuda:0", "cuda:1", "cuda:0"]
    assert [order.environment["CUDA_VISIBLE_DEVICES"] for order in orders] == ["4", "7", "4"]
    assert {order.settings.config.device for order in orders} == {"cuda:0"}  # the only one that it sees
    assert {(order.settings.config.port, order.settings.config.grpc_port) for order in orders} == {(8000, 8001)}
    assert [(order.worker, order.count) for order in orders] == [(0, 3), (1, 3), (2, 3)]
    assert not any(order.settings.config.has_workers for order in orders)


def test_an_order_reads_as_it_was_written() -> None:
    config = ServeConfig(cache_ttl_s=2.5, trusted=True)
    order = Order(1, 2, "/tmp/ü", 7, ResolvedSettings(config, (ModelConfig("m", "n", "2", cache=False),)))

    assert Order.from_line(order.to_line()) == order
    assert order.to_line().count(b"\n") == 1


def test_a_gpu_that_the_environment_does_not_show_is_refused() -> None:
    with pytest.raises(ConfigError, match="devices has 'cuda:2', and CUDA_VISIBLE_DEVICES is '4,7', which shows 2"):
        only("cuda:2", {"CUDA_VISIBLE_DEVICES": "4,7"})


def test_pauses_double_and_end_somewhere() -> None:
    pauses = [pause_s(failures) for failures in range(1, 1000)]

    assert pauses[:4] == [0.5, 1, 2, 4]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 30


# -- metrics of all


def test_metrics_are_joined_by_family_with_the_workers_number() -> None:
    text = (
        "# HELP nograd_rows_total Rows run.\n# TYPE nograd_rows_total counter\n"
        'nograd_rows_total{{model="a b {{c}}"}} {0}.0\n'
        "# HELP up Always.\n# TYPE up gauge\nup {0}.0\n"
    )
    found = list(text_string_to_metric_families(merged("worker", {0: text.format(1), 3: text.format(2)})))

    assert [family.name for family in found] == ["nograd_rows", "up"]
    assert [(sample.labels, sample.value) for sample in found[0].samples] == [
        ({"worker": "0", "model": "a b {c}"}, 1), ({"worker": "3", "model": "a b {c}"}, 2),
    ]  # fmt: skip
    assert [(sample.labels, sample.value) for sample in found[1].samples] == [({"worker": "0"}, 1), ({"worker": "3"}, 2)]


def test_a_worker_that_does_not_tell_its_metrics_is_down(tmp_path: Path) -> None:
    async def talk() -> str:
        first, second = (WorkerPeers(worker, 3, str(tmp_path), -1) for worker in (0, 1))
        reads, writes = os.pipe()
        os.close(writes)
        first._orders = second._orders = reads
        gone = asyncio.Event()
        await second.open(lambda: b"b 2\n", gone.set)
        try:
            await asyncio.wait_for(gone.wait(), WAIT_S)  # the supervisor's end of the pipe is closed
            return (await first.metrics(b"a 1\n")).decode()
        finally:
            await second.close()
            os.close(reads)

    lines = asyncio.run(talk()).splitlines()

    assert lines[:2] == ['a{worker="0"} 1', 'b{worker="1"} 2']
    assert [line for line in lines if line.startswith("nograd_worker_up")] == [
        'nograd_worker_up{worker="0"} 1', 'nograd_worker_up{worker="1"} 1', 'nograd_worker_up{worker="2"} 0',
    ]  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_one_process_alone_tells_nothing_of_workers() -> None:
    with Site({"m": doubling()}) as site:
        assert b"worker" not in site.get("/metrics").body
        assert "worker" not in site.get("/live.json").json["server"]


# -- real processes


@pytest.fixture
def crew() -> Iterator[RunningServer]:
    with server_of("served_models:dense", "--name", "tiny", "--workers", "2", "--cache-size", "0") as server:
        yield server


def server_told(url: str) -> Any:
    """What one worker, on a new connection, tells of all."""
    return httpx.get(f"{url}/live.json", timeout=WAIT_S).json()["server"]


def seen(server: RunningServer) -> dict[int, int]:
    """Ask on new connections until every worker has answered; return their process ids."""
    found: set[int] = set()
    for _ in range(2000):
        told = server_told(server.url)
        found.add(told["worker"])
        if found == {0, 1} and all(each["ready"] for each in told["workers"]):
            return {each["worker"]: each["pid"] for each in told["workers"]}
    raise AssertionError(f"only {found} answered")


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ask(server: RunningServer) -> Any:
    reply = httpx.post(f"{server.url}/v2/models/tiny/infer", json=row(), timeout=WAIT_S)
    assert reply.status_code == 200
    return reply.json()["outputs"]


def test_workers_share_the_port_give_the_same_answers_and_are_counted_together(crew: RunningServer) -> None:
    pids = seen(crew)
    before = requests(crew)
    answers = [ask(crew) for _ in range(20)]
    found = requests(crew)

    assert len(set(pids.values()) | {crew.process.pid}) == 3
    assert all(answer == answers[0] for answer in answers)
    assert (sum(before.values()), sum(found.values())) == (0, 20)
    assert "  workers   2 processes: auto, auto\n" in crew.greeting
    assert crew.stop() == 0
    assert crew.rest() == "stopped\n"
    assert not any(map(is_there, pids.values()))


def requests(server: RunningServer) -> dict[str, float]:
    """Requests that each worker has answered; the text is whole, whoever tells it."""
    families = text_string_to_metric_families(httpx.get(f"{server.url}/metrics", timeout=WAIT_S).text)
    samples = {family.name: family.samples for family in families}
    assert {sample.labels["worker"] for sample in samples["nograd_model_ready"]} == {"0", "1"}
    assert [sample.value for sample in samples["nograd_worker_up"]] == [1, 1]
    return {sample.labels["worker"]: sample.value for sample in samples.get("nograd_requests", ())}


def test_a_worker_that_is_killed_is_started_again_while_the_other_answers(crew: RunningServer) -> None:
    pids = seen(crew)
    os.kill(pids[0], signal.SIGKILL)

    def is_replaced() -> bool:
        try:
            ask(crew)
            answer = server_told(crew.url)
        except httpx.TransportError:  # the worker had accepted the connection, and was killed with it
            return False
        return bool(answer["workers"][0]["restarts"]) and all(each["ready"] for each in answer["workers"])

    wait_until(is_replaced)
    again = seen(crew)

    assert again[1] == pids[1]
    assert again[0] != pids[0]
    assert 'nograd_worker_restarts_total{worker="0"} 1' in httpx.get(f"{crew.url}/metrics", timeout=WAIT_S).text
    assert "info worker_ended worker=0 code=-9 again_in_s=0.5" in crew.stderr()
    assert "info worker_ready worker=0 restarts=1" in crew.stderr()
    assert crew.stop() == 0


def test_a_worker_that_is_stopped_is_replaced_while_the_other_answers(crew: RunningServer) -> None:
    pids = seen(crew)
    watched = os.pidfd_open(pids[0])
    os.kill(pids[0], signal.SIGSTOP)
    ended, _, _ = select.select([watched], [], [], WAIT_S)
    os.close(watched)

    assert ended
    assert "worker_silent worker=0" in crew.stderr()
    assert is_there(pids[1])


def test_workers_do_not_outlive_their_supervisor(crew: RunningServer) -> None:
    pids = seen(crew)
    crew.process.kill()
    crew.process.wait()

    for pid in pids.values():
        wait_gone(pid)


def wait_gone(pid: int) -> None:
    """Return when a process that is no child of this one has ended."""
    for _ in range(600):
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            poller = select.poll()
            poller.register(handle)
            if poller.poll(100):
                return
        finally:
            os.close(handle)
    raise AssertionError(f"{pid} goes on")


def test_a_second_signal_ends_all_at_once() -> None:
    with server_of("served_models:dense", "--name", "tiny", "--workers", "2", "--lame-duck", "1h") as server:
        pids = seen(server)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not all_ready(server))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT_S) == 0
        assert not any(map(is_there, pids.values()))


def all_ready(server: RunningServer) -> bool:
    return httpx.get(f"{server.url}/v2/health/ready", timeout=WAIT_S).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.bundle", "--workers", "2"], "nowhere.bundle"),
        (
            ["served_models:tiny", "--devices", "cpu", "--devices", "nonsense"],
            "device is 'nonsense', but served_models:tiny returned a Predictor",
        ),
    ],
)
def test_what_cannot_be_served_is_told_and_everything_ends(arguments: list[str], said: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "nograd", "serve", *arguments, "--port", "0", "--log-level", "error"],
        cwd=FOLDER, capture_output=True, text=True, timeout=WAIT_S * 4, check=False,
    )  # fmt: skip

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("nograd: ") == 1
    assert said in ended.stderr


def test_a_port_in_use_is_told_before_any_worker_is_started() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = nograd("serve", "minilm", "--workers", "2", "--port", str(taken.getsockname()[1]))

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "is in use by another program; choose another with --port" in ended.stderr


@pytest.mark.parametrize("listens", [True, False], ids=["it answers", "it still loads"])
def test_a_shared_port_is_refused_to_a_second_server(listens: bool) -> None:
    with bind("127.0.0.1", 0, shared=True) as first:
        port = first.getsockname()[1]
        if listens:
            first.listen()
        with (
            nullcontext() if listens else hold_port("127.0.0.1", port),
            pytest.raises(PortInUseError, match=f"port {port} on 127.0.0.1 is in use"),
            hold_port("127.0.0.1", port),
        ):
            pass


@pytest.mark.parametrize(("host", "offset"), [("127.0.0.2", 0), ("127.0.0.1", 1)])
def test_another_address_is_not_held(host: str, offset: int) -> None:
    with bind("127.0.0.1", 0, shared=True) as first, bind("127.0.0.1", 0) as free:
        port, other = (each.getsockname()[1] for each in (first, free))
        free.close()
        with hold_port("127.0.0.1", port), hold_port(host, other if offset else port):
            pass


@pytest.mark.parametrize(
    ("code", "failures", "was_ready", "any_was_ready", "ends"),
    [
        (2, 1, False, False, True),  # a mistake, which another worker would make as well
        (2, 1, False, True, True),  # a mistake of one: the server would not be what was configured
        (2, 3, True, True, False),  # it has answered before
        (-9, 1, False, False, False),  # killed once is not killed for ever
        (0, 2, False, False, False),
        (-11, 3, False, False, True),
        (-11, 3, False, True, False),  # another one answers
    ],
)
def test_a_first_start_that_fails_ends_the_server_only_for_a_mistake_or_if_no_worker_can_start(
    code: int, failures: int, was_ready: bool, any_was_ready: bool, ends: bool
) -> None:
    assert cannot_start(code, failures, was_ready=was_ready, any_was_ready=any_was_ready) is ends


def test_with_grpc_workers_share_its_port_too() -> None:
    grpc = pytest.importorskip("grpc", reason="grpcio is not installed; run: pip install 'nograd[grpc]'")
    from nograd.server.grpc.messages import SERVICE, ServerMetadataResponse

    with server_of("served_models:tiny", "--name", "tiny", "--workers", "2", "--grpc-port", "0") as server:
        (line,) = [line for line in server.greeting.splitlines() if line.startswith("  gRPC")]
        for _ in range(4):
            with grpc.insecure_channel(line.split()[1], [("grpc.use_local_subchannel_pool", 1)]) as channel:
                told = channel.unary_unary(f"/{SERVICE}/ServerMetadata")(b"", timeout=WAIT_S)
                assert ServerMetadataResponse.FromString(told).name == "nograd"
