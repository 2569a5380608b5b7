"""Load: when requests are sent, what is made of their times, and what becomes of a server's bad manners."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import mean, pstdev
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd.bench import BenchReport, Clients, Load, Plan, bench, measure
from nograd.bench.arrivals import arrivals
from nograd.bench.html import to_html
from nograd.bench.load import ClosedLoop, OpenLoop
from nograd.bench.plots import SHAPES, by_kind, latency_curves, percentile_bars
from nograd.bench.report import COLUMNS, cells, notes, to_text
from nograd.bench.samples import CLOSED, REFUSED, TIMED_OUT, Samples, name_of
from nograd.bench.summary import PERCENTILES, Summary, histogram, percentile, rate_of, summarise
from nograd.bench.target import Target, bodies_of, target_of
from nograd.errors import ConfigError, ModelLoadError, UnavailableError
from tests.rude_server import Manners, rude_server
from tests.running_server import RunningServer
from tests.test_cli import nograd as command
from tests.virtual_loop import virtual, virtual_loop

TEXT = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}]}


def test_uniform_arrivals_are_equally_far_apart() -> None:
    assert list(islice(arrivals("uniform", 200.0), 3)) == [0.005, 0.01, 0.015]


def test_poisson_arrivals_have_exponential_gaps_and_are_the_same_for_a_seed() -> None:
    times = list(islice(arrivals("poisson", 50.0, seed=1), 20_000))
    gaps = np.diff(times)

    assert times == list(islice(arrivals("poisson", 50.0, seed=1), 20_000))
    assert times[:5] != list(islice(arrivals("poisson", 50.0, seed=2), 5))
    assert mean(gaps) == pytest.approx(0.02, rel=0.03)
    assert pstdev(gaps) == pytest.approx(0.02, rel=0.03)  # of an exponential distribution: its mean


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Load(0.0), "rate is 0.0; it must be above 0, finite"),
        (lambda: Load(1.0, "bursts"), "arrivals is 'bursts'; it must be poisson or uniform"),  # type: ignore[arg-type]
        (lambda: Clients(0), "clients is 0; it must be at least 1"),
        (lambda: Plan(duration_s=0), "duration is 0 s; it must be above 0, finite"),
        (lambda: Plan(warmup_s=-1), "warmup is -1 s; it must be 0 or more, finite"),
        (lambda: Plan(requests=0), "requests is 0; it must be at least 1"),
        (lambda: Plan(max_connections=0), "max_connections is 0; it must be at least 1"),
    ],
)
def test_settings_out_of_their_range_are_told(make: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        make()  # type: ignore[operator]


# Who sends when, on a virtual clock


def pumped(wakes: list[float], plan: Plan) -> tuple[list[tuple[float, float]], list[float | None], OpenLoop]:
    """Wake an open loop of 10 requests a second at some times; return when each request was sent and due, and the delays."""
    now, sent = [0.0], []
    loop = OpenLoop(lambda due: sent.append((now[0], due)), arrivals("uniform", 10.0), lambda: now[0], 0.0, plan)
    delays = []
    for now[0] in wakes:
        delays.append(loop.pump())
    return sent, delays, loop


def test_an_open_loop_sends_what_is_due_and_says_when_to_wake_it() -> None:
    sent, delays, _ = pumped([0.0, 0.1, 0.15], Plan(warmup_s=0))

    assert sent == [(0.1, 0.1)]
    assert delays == pytest.approx([0.1, 0.1, 0.05])


def test_an_open_loop_that_slept_too_long_sends_all_that_it_missed_each_due_at_its_own_time() -> None:
    sent, _, _ = pumped([0.45], Plan(warmup_s=0))

    assert [at for at, _ in sent] == [0.45] * 4
    assert [due for _, due in sent] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_an_open_loop_ends_after_its_warm_up_and_duration() -> None:
    sent, delays, loop = pumped([5.0], Plan(warmup_s=0.25, duration_s=0.5))

    assert [due for _, due in sent] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert (delays, loop.ended, loop.stopped.is_set()) == ([None], 0.75, True)


def test_an_open_loop_of_a_number_of_requests_does_not_count_its_warm_up() -> None:
    sent, _, loop = pumped([5.0], Plan(warmup_s=0.25, requests=2))

    assert [due for _, due in sent] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert loop.ended == pytest.approx(0.5)


@virtual
async def test_a_closed_loop_sends_again_when_an_answer_came_until_its_time_is_over() -> None:
    loop = virtual_loop()
    sent: list[float] = []

    def submit(due: float) -> None:
        sent.append(due)
        loop.call_later(0.25, closed.on_end, 200)

    closed = ClosedLoop(submit, loop.call_later, loop.time, 0.5, Plan(duration_s=1.0, warmup_s=0.5))
    closed.start(2)
    await closed.stopped.wait()

    assert sent == [at for at in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25) for _ in range(2)]
    assert closed.ended == 1.5


@virtual
async def test_a_closed_loop_of_a_number_of_requests_does_not_count_its_warm_up() -> None:
    loop = virtual_loop()
    sent: list[float] = []

    def submit(due: float) -> None:
        sent.append(due)
        loop.call_later(0.25, closed.on_end, 503)

    closed = ClosedLoop(submit, loop.call_later, loop.time, 0.5, Plan(requests=3, warmup_s=0.5))
    closed.start(1)
    await closed.stopped.wait()

    assert sent == [0.0, 0.25, 0.5, 0.75, 1.0]


@virtual
async def test_a_client_that_finds_no_server_waits_before_it_tries_again() -> None:
    loop = virtual_loop()
    sent: list[float] = []

    def submit(due: float) -> None:
        sent.append(due)
        loop.call_soon(closed.on_end, REFUSED)

    closed = ClosedLoop(submit, loop.call_later, loop.time, 0.0, Plan(duration_s=0.12, warmup_s=0))
    closed.start(1)
    await closed.stopped.wait()

    assert sent == pytest.approx([0.0, 0.05, 0.1])


# What is made of times


def recorded(*requests: tuple[float, float, float, int]) -> Samples:
    samples = Samples()
    for request in requests:
        samples.add(*request)
    return samples


def test_latency_is_counted_from_when_a_request_was_due_and_not_from_when_it_was_sent() -> None:
    found = summarise(recorded((1.0, 1.5, 1.75, 200)), 0.0, 10.0, label="x")

    assert (found.mean_s, found.max_s, found.late, found.latest_s) == (0.75, 0.75, 1, 0.5)


def test_the_warm_up_and_what_was_due_after_the_end_are_left_out() -> None:
    samples = recorded((0.5, 0.5, 0.6, 200), (1.5, 1.5, 4.0, 200), (2.0, 2.0, 2.1, 503), (3.0, 3.0, 3.1, 200))

    found = summarise(samples, 1.0, 3.0, label="x")

    assert (found.requests, found.answered, found.errors) == (2, 1, {"503 Service Unavailable": 1})
    assert (found.num_samples, found.max_s) == (1, 2.5)


def test_the_rate_is_of_answers_that_came_in_the_time_whenever_they_were_asked_for() -> None:
    samples = recorded((0.0, 0.0, 1.5, 200), (1.0, 1.0, 2.5, 200), (2.9, 2.9, 3.5, 200), (1.0, 1.0, 1.5, 503))

    assert summarise(samples, 1.0, 3.0, label="x").rate.per_s == pytest.approx(1.0)


def test_a_request_that_timed_out_counts_as_long_as_it_was_waited_for_and_a_refusal_does_not() -> None:
    samples = recorded((0.0, 0.0, 0.1, 200), (0.0, 0.0, 9.0, TIMED_OUT), (0.0, 0.0, 0.01, 503), (0.0, 0.0, 0.01, CLOSED))

    found = summarise(samples, 0.0, 1.0, label="x")

    assert (found.num_samples, found.max_s) == (2, 9.0)
    assert found.errors == {"timed out": 1, "connection closed before the answer": 1, "503 Service Unavailable": 1}


def test_nothing_measured_is_no_figure_and_no_error() -> None:
    found = summarise(Samples(), 0.0, 1.0, label="x")

    assert (found.requests, found.max_s, found.mean_s, found.rate.per_s) == (0, None, None, 0.0)
    assert set(found.percentiles.values()) == {None}
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["answered"] == 0
    assert BenchReport("t", (found,), "now").exit_code() == 1


def test_a_percentile_is_told_only_where_a_sample_lies_above_it() -> None:
    values = [float(each) for each in range(1, 1001)]

    assert [percentile(values, share) for share in PERCENTILES.values()] == [500.0, 900.0, 950.0, 990.0, 999.0]
    assert percentile(values[:999], 0.999) is None


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=300))
def test_percentiles_are_numpys_by_nearest_rank_and_the_histogram_holds_every_sample(values: list[float]) -> None:
    ordered = np.sort(np.asarray(values))

    assert percentile(ordered, 0.5) in (None, float(np.percentile(ordered, 50, method="inverted_cdf")))
    buckets = histogram(ordered)
    assert sum(count for _, count in buckets) == len(values)
    assert buckets[-1][0] >= ordered[-1] * (1 - 1e-9)
    for end, _ in buckets:
        below = sum(count for upper, count in buckets if upper <= end)
        assert below in range(int((ordered < end * (1 - 1e-6)).sum()), int((ordered <= end * (1 + 1e-6)).sum()) + 1)


def test_the_interval_of_a_rate_is_that_of_its_ten_slices() -> None:
    steady = rate_of(np.arange(0.05, 10, 0.1), 0.0, 10.0)
    bursts = rate_of(np.concatenate([np.linspace(at, at + 0.9, 20) for at in range(0, 10, 2)]), 0.0, 10.0)

    assert (steady.per_s, steady.low, steady.high) == pytest.approx((10.0, 10.0, 10.0))
    assert bursts.per_s == 10.0
    assert bursts.high - bursts.per_s == pytest.approx(2.262 * np.std([20, 0] * 5, ddof=1) / np.sqrt(10))


@pytest.mark.parametrize(("outcome", "name"), [(404, "404 Not Found"), (299, "299"), (TIMED_OUT, "timed out")])
def test_outcomes_have_names(outcome: int, name: str) -> None:
    assert name_of(outcome) == name


# What is sent


def test_lines_of_requests_are_sent_as_they_are() -> None:
    assert bodies_of(b'{"inputs": []}\n\n{"inputs": [1]}\n', {}) == [b'{"inputs": []}', b'{"inputs": [1]}']


def test_lines_of_text_become_requests_of_a_model_that_takes_text() -> None:
    first, second = map(json.loads, bodies_of("früh\n{no json}\n".encode(), TEXT))

    assert first == {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["früh"]}]}
    assert second["inputs"][0]["data"] == ["{no json}"]


@pytest.mark.parametrize("text", [b"", b"hello\n"])
def test_lines_that_cannot_be_sent_are_told(text: bytes) -> None:
    with pytest.raises(ConfigError, match=r"no line|the first line is not a request .* takes x FP32"):
        bodies_of(text, {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}]})


# Servers


def loaded(
    manners: Manners, load: Clients | Load, plan: Plan, clock: Callable[[], float] = time.perf_counter
) -> tuple[Summary, int]:
    """Return what a load on a rude server comes to, and how many connections it took."""

    async def main() -> tuple[Summary, int]:
        async with rude_server(manners) as server:
            return await measure(Target.of(server.url, [b"{}"]), load, plan, clock), server.connections

    return asyncio.run(main())


class HangsForMinutes:
    """Some of a server's requests hang: a minute goes by on the generator's clock as soon as the server has one of them."""

    def __init__(self, hangs: Callable[[int], bool]) -> None:
        self.hangs, self.slept_s = hangs, 0.0

    def manners(self, number: int) -> str:
        if not self.hangs(number):
            return "200"
        self.slept_s += 60.0
        return "hang"

    def clock(self) -> float:
        return time.perf_counter() + self.slept_s


FIFTY = Plan(warmup_s=0, requests=50, timeout_s=5)


@pytest.mark.parametrize("load", [Clients(2), Load(2000.0)], ids=str)
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("503", "503 Service Unavailable"),
        ("close", "connection closed before the answer"),
        ("nonsense", "no HTTP"),
    ],
)
def test_bad_manners_are_counted_by_their_kind_and_the_load_goes_on(bad: str, error: str, load: Clients | Load) -> None:
    found, _ = loaded(lambda number: bad if number % 5 == 4 else "200", load, FIFTY)

    assert (found.requests, found.answered, found.errors) == (50, 40, {error: 10})
    assert found.num_samples == 40


@pytest.mark.parametrize(("manner", "connections"), [("200", 2), ("chunks", 2), ("bye", 50)])
def test_connections_are_kept_as_long_as_the_server_keeps_them(manner: str, connections: int) -> None:
    found, opened = loaded(lambda _: manner, Clients(2), FIFTY)

    assert (found.answered, found.errors, opened) == (50, {}, connections)


def test_a_server_that_hangs_is_given_up_and_counts_with_the_time_waited() -> None:
    server = HangsForMinutes(lambda number: number == 0)

    found, _ = loaded(server.manners, Clients(1), Plan(warmup_s=0, requests=3), server.clock)

    assert (found.answered, found.errors) == (2, {"timed out": 1})
    assert found.num_samples == 3
    assert found.max_s is not None
    assert found.max_s >= 60.0


def test_a_request_that_finds_no_free_connection_waits_and_its_wait_is_latency() -> None:
    server = HangsForMinutes(lambda _: True)
    at_once = Load(1e9, "uniform")

    found, connections = loaded(server.manners, at_once, Plan(warmup_s=0, requests=3, max_connections=1), server.clock)

    assert found.errors == {"timed out": 3}
    assert connections == 1
    assert found.percentiles["p50"] is not None
    assert found.percentiles["p50"] >= 60.0


def test_a_server_that_is_gone_is_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    found = asyncio.run(measure(Target.of(f"http://127.0.0.1:{port}", [b"{}"]), Clients(2), Plan(warmup_s=0, requests=4)))

    assert (found.answered, found.errors) == (0, {"no connection": 4})


def test_our_own_server_is_loaded_in_closed_and_open_loops(tiny_server: RunningServer, text_server: RunningServer) -> None:
    plan = Plan(requests=200, warmup_s=0.05)

    report = bench(tiny_server.url, [Clients(4), Load(1000.0)], plan)
    texts = bench(f"{text_server.url}/v2/models/echo", [Load(1000.0, "uniform")], plan, data=Path(__file__))

    assert [(each.requests, each.answered, each.errors) for each in report.summaries] == [(200, 200, {})] * 2
    assert report.target.startswith(f"tiny at {tiny_server.url}, 1024 different requests of one row, built from")
    assert (texts.summaries[0].answered, texts.summaries[0].offered_per_s) == (200, 1000.0)
    assert "requests of test_bench.py" in texts.target


def test_what_the_server_does_not_take_is_told_before_the_load(tiny_server: RunningServer, tmp_path: Path) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_text('{"inputs": []}\n')

    with pytest.raises(UnavailableError, match="answers the first request with 400: inputs is empty"):
        target_of(tiny_server.url, data)
    with pytest.raises(ModelLoadError, match="nothing answers at"):
        target_of("http://127.0.0.1:9")


def test_the_command_prints_a_table_and_writes_files(tiny_server: RunningServer, tmp_path: Path) -> None:
    found, page = tmp_path / "load.json", tmp_path / "load.html"
    options = [
        "--clients",
        "2",
        "--rate",
        "500",
        "--requests",
        "50",
        "--warmup",
        "0",
        "-o",
        "-",
        "-o",
        str(found),
        "-o",
        str(page),
    ]

    ended = command("bench", tiny_server.url, *options)

    assert ended.returncode == 0, ended.stderr
    assert " 2 clients " in ended.stdout
    assert " 500/s poisson " in ended.stdout
    loads = json.loads(found.read_text())["loads"]
    assert [(each["load"], each["answered"]) for each in loads] == [("2 clients", 50), ("500/s poisson", 50)]
    assert "Latency against load" in page.read_text()


def test_the_command_says_in_one_sentence_that_nothing_answers() -> None:
    ended = command("bench", "http://127.0.0.1:9")

    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)


# Told


def summary(rate: float, seconds: float, label: str = "x") -> Summary:
    times = np.linspace(0, 9.99, int(rate * 10))
    return summarise(
        recorded(*((at, at, at + seconds * (1 + at / 10), 200) for at in times)), 0, 10, label=label, offered_per_s=rate
    )


def test_a_row_of_the_table_holds_rate_percentiles_samples_and_errors() -> None:
    row = cells(summary(100.0, 0.01, "100/s uniform"))

    assert row[0] == "100/s uniform"
    assert row[3] == "15 ms"
    assert row[7:] == ("20 ms", "1,000", "0", "0")


def test_what_a_reader_must_know_is_told() -> None:
    said = list(notes(BenchReport("t", (summarise(recorded((0, 0.5, 1, 200), (0, 0, 1, 503)), 0, 10, label="2/s"),), "now")))

    assert said[:2] == [
        "2/s: 1 of 2 requests: 503 Service Unavailable",
        "2/s: the generator came to 1 of 2 requests more than 5 ms after they were due, at worst 500 ms: this wait is in the "
        "latencies, and not the server's",
    ]


def test_the_page_holds_a_plot_of_latency_against_load_and_one_for_each_load() -> None:
    report = BenchReport("<model>", (summary(100.0, 0.01, "a"), summary(200.0, 0.05, "b")), "2026-01-01 00:00")

    page = to_html(report)

    assert page.count("<title>") == 1
    assert "&lt;model&gt;" in page
    assert page.count('class="plot wide"') == 3
    for shape in SHAPES:
        drawn = latency_curves(report.summaries, shape)
        assert len(ET.fromstring(drawn).findall("g")) == 4
        ET.fromstring(percentile_bars(report.summaries[0], shape, "key"))


def test_closed_and_open_loops_are_lines_of_their_own_and_a_line_goes_by_what_was_asked_for() -> None:
    closed = [dataclasses.replace(summary(rate, 0.02), offered_per_s=None) for rate in (100.0, 50.0)]
    opened = [summary(rate, 0.01) for rate in (300.0, 100.0, 200.0)]

    kinds = by_kind([closed[0], *opened, closed[1]])
    drawn = latency_curves([closed[0], *opened, closed[1]], SHAPES[0])

    assert kinds["closed"] == closed
    assert [each.offered_per_s for each in kinds["open"]] == [100, 200, 300]
    lines = {g.get("class"): g[0].get("points", "").split() for g in ET.fromstring(drawn).iter("g")}
    assert {name: len(lines[f"curve {name} c0"]) for name in ("closed", "open")} == {"closed": 2, "open": 3}
    assert "closed loops" in to_html(BenchReport("t", (*closed, *opened), "now"))
    assert "closed loops" not in to_html(BenchReport("t", tuple(opened), "now"))


def test_a_page_of_one_load_or_of_none_answered_has_no_curves() -> None:
    empty = summarise(Samples(), 0, 1, label="x")

    assert latency_curves([summary(100.0, 0.01)], SHAPES[0]) == ""
    assert percentile_bars(empty, SHAPES[0], "key") == ""
    assert "Figures" in to_html(BenchReport("t", (empty,), "now"))


@pytest.mark.parametrize("width", [40, 80, 129])
def test_a_narrow_terminal_has_every_figure_in_lines_that_fit(width: int) -> None:
    report = BenchReport("m at u", (summary(100.0, 0.01, "2 clients"), summary(50.0, 0.02, "50/s poisson")), "now")

    lines = to_text(report, width).splitlines()
    listed = lines[: lines.index("50/s poisson")]

    text = " ".join(line.strip() for line in listed)
    for name, figure in zip(COLUMNS[1:], cells(report.summaries[0])[1:], strict=True):
        assert f"{name} {figure}" in text
    assert max(map(len, listed)) <= width


def test_a_wide_terminal_has_a_table() -> None:
    report = BenchReport("m at u", (summary(100.0, 0.01, "2 clients"),), "now")

    (head,) = [line for line in to_text(report).splitlines() if "answers/s" in line]

    assert head.split()[:2] == ["load", "answers/s"]


# Ctrl-C


async def _interrupted(load: Clients | Load, plan: Plan, requests: int) -> Summary | None:
    """Measure a server that cancels the measurement at a request, and never answers from there on."""
    seen = 0
    task: asyncio.Task[Summary]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"{}"):
                seen += 1
                if seen == requests:
                    task.cancel()
                if seen < requests:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        task = asyncio.create_task(measure(Target.of(f"http://127.0.0.1:{port}/x", [b"{}"]), load, plan))
        try:
            return await task
        except asyncio.CancelledError:
            return None


@pytest.mark.parametrize("load", [Clients(1), Clients(3), Load(2000, "uniform")], ids=str)
def test_an_interrupted_load_keeps_what_was_measured_and_counts_no_request_in_flight_as_an_error(load: Clients | Load) -> None:
    found = asyncio.run(_interrupted(load, Plan(duration_s=3600, warmup_s=0, max_connections=3), 40))

    assert found is not None
    assert (found.is_partial, found.errors) == (True, {})
    assert 37 <= found.answered <= 39  # at most three connections have a request in flight
    assert found.to_json()["partial"] is True


def test_a_load_that_is_interrupted_in_its_warm_up_has_no_result() -> None:
    assert asyncio.run(_interrupted(Clients(2), Plan(warmup_s=3600), 10)) is None


def test_loads_after_an_interrupted_one_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = [Clients(1), Clients(2), Clients(3)]
    partial = dataclasses.replace(summary(100.0, 0.01, "2 clients"), is_partial=True, seconds=1.5)
    results = iter([summary(100.0, 0.01, "1 client"), partial])
    monkeypatch.setattr("nograd.bench.runner.target_of", lambda *_: (None, "m"))
    monkeypatch.setattr("nograd.bench.runner.measure", lambda *_: None)
    monkeypatch.setattr("nograd.bench.runner.run", lambda _: next(results))

    report = bench("http://u", loads, Plan())

    assert report.interrupted == "interrupted by Ctrl-C: 2 clients was measured for 1.5 s only; 1 of 3 loads was not measured"
    assert (len(report.summaries), report.exit_code(), next(notes(report))) == (2, 130, report.interrupted)


@pytest.mark.parametrize("measured", [0, 1])
def test_ctrl_c_in_a_warm_up_keeps_the_loads_before_it(monkeypatch: pytest.MonkeyPatch, measured: int) -> None:
    results = iter([summary(100.0, 0.01, "1 client")][:measured])

    def run(_: object) -> Summary:
        if (found := next(results, None)) is None:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr("nograd.bench.runner.target_of", lambda *_: (None, "m"))
    monkeypatch.setattr("nograd.bench.runner.measure", lambda *_: None)
    monkeypatch.setattr("nograd.bench.runner.run", run)

    if not measured:
        with pytest.raises(KeyboardInterrupt):
            bench("http://u", [Clients(1), Clients(2)], Plan())
    else:
        found = bench("http://u", [Clients(1), Clients(2)], Plan())
        assert found.interrupted == "interrupted by Ctrl-C: 1 of 2 loads was not measured"
