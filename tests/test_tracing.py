"""Traces, against a real receiver of OTLP over HTTP. Spans are there once the service is closed: nothing waits."""

from __future__ import annotations

import gzip
import json
import logging
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from nograd.batching import BatchRecord, RequestTimes
from nograd.errors import ConfigError
from nograd.server.settings.definition import ServeConfig
from nograd.server.telemetry.tracing import EXPORTER, note_batch, open_tracing
from tests.fakes import Site, doubling, tensor, x
from tests.grpc_site import GrpcSite, raw_request, rows
from tests.running_server import RunningServer

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
NOT_SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
BODY = json.dumps({"inputs": [x([1, 2])]}).encode()
INFER = "/v2/models/doubling/infer"


class Collector:
    """A receiver of traces on a free port of 127.0.0.1."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self.requests: list[Any] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.asked.append((self.path, dict(self.headers)))
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def spans(self) -> list[Any]:
        return [span for request in self.requests for group in request.resource_spans for scope in group.scope_spans
                for span in scope.spans]  # fmt: skip

    @property
    def resource(self) -> dict[str, Any]:
        return attributes(self.requests[0].resource_spans[0].resource)

    def named(self, name: str) -> Any:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


def posted(collector: Collector, *requests: tuple[str, bytes, Mapping[str, str]], **settings: Any) -> list[int]:
    """Return the statuses of POSTs to a server that traces; their spans are in the collector."""
    with Site({"doubling": doubling()}, traces=collector.url, **settings) as site:
        statuses = [site.request("POST", path, body, headers=headers).status for path, body, headers in requests]
        site.run(site.service.stop())
        site.service.close()
    return statuses


def test_a_request_is_a_span_below_its_callers(collector: Collector) -> None:
    assert posted(collector, (INFER, BODY, SAMPLED)) == [200]

    span = collector.named("POST /v2/models/{model}/infer")
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.kind) == (TRACE, PARENT, 2)
    told = attributes(span)
    assert told["http.response.status_code"] == 200
    assert told["url.path"] == INFER
    assert (told["nograd.model"], told["nograd.request.id"], told["nograd.batch.rows"]) == ("doubling", "1", 1)
    assert {path for path, _ in collector.asked} == {"/v1/traces"}
    assert collector.resource["service.name"] == "nograd"


def test_its_stages_lie_below_it_and_within_it(collector: Collector) -> None:
    posted(collector, (INFER, BODY, SAMPLED))

    span = collector.named("POST /v2/models/{model}/infer")
    stages = [each for each in collector.spans if each.parent_span_id == span.span_id and each.name != "batch"]
    assert [each.name for each in stages] == ["decode", "queue", "run", "encode"]
    for each in stages:
        assert span.start_time_unix_nano <= each.start_time_unix_nano <= each.end_time_unix_nano
        assert each.trace_id == span.trace_id


def test_a_batch_is_a_span_below_its_first_request_and_linked_to_all(collector: Collector) -> None:
    tracing = open_tracing(collector.url)
    assert tracing is not None
    traces = [tracing.begin("POST", [], {}) for _ in range(2)]
    spent = tuple(RequestTimes() for _ in traces)
    for each, trace in zip(spent, traces, strict=True):
        each.owner = trace
    record = BatchRecord(3, 2, "full", 0.25, (0.0, 0.0), 0.0, 0, spent=spent)

    note_batch("m", record)
    tracing.close()

    span = collector.named("batch")
    own = [trace.span.get_span_context() for trace in traces]
    assert span.parent_span_id == own[0].span_id.to_bytes(8)
    assert [link.span_id for link in span.links] == [each.span_id.to_bytes(8) for each in own]
    assert span.end_time_unix_nano - span.start_time_unix_nano == 250_000_000
    told = attributes(span)
    assert (told["nograd.batch.rows"], told["nograd.batch.parts"], told["nograd.batch.reason"]) == (3, 2, "full")


def test_a_server_links_its_batches(collector: Collector) -> None:
    posted(collector, (INFER, BODY, SAMPLED))

    span = collector.named("POST /v2/models/{model}/infer")
    assert [link.span_id for link in collector.named("batch").links] == [span.span_id]


def test_a_caller_that_does_not_sample_is_followed(collector: Collector) -> None:
    assert posted(collector, (INFER, BODY, NOT_SAMPLED)) == [200]

    assert collector.spans == []


def test_the_standard_variable_says_what_share_is_sampled(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")

    posted(collector, (INFER, BODY, {}), (INFER, BODY, SAMPLED))

    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}


def test_the_standard_variables_name_the_service(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "sentences")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")

    posted(collector, (INFER, BODY, {}))

    assert collector.resource["service.name"] == "sentences"
    assert collector.resource["deployment.environment.name"] == "test"


def test_a_mistake_of_the_clients_is_told_and_is_no_error_of_the_servers(collector: Collector) -> None:
    assert posted(collector, (INFER, b"{", SAMPLED), ("/v2/models/other/infer", BODY, {}), ("/x", b"", {})) == [400, 404, 404]

    bad, unknown, nothing = collector.spans
    assert (attributes(bad)["error.type"], bad.status.code) == ("400", 0)
    assert unknown.name == "POST /v2/models/{model}/infer"
    assert nothing.name == "POST"


def test_a_refusal_is_an_error_with_its_sentence(collector: Collector) -> None:
    with Site({"doubling": doubling()}, traces=collector.url) as site:
        site.service.drain()
        assert site.request("POST", INFER, BODY).status == 503
        site.service.close()

    (span,) = collector.spans
    assert span.status.code == 2
    assert "'doubling' is not ready" in span.status.message


def test_probes_and_scrapes_make_no_spans(collector: Collector) -> None:
    with Site({"doubling": doubling()}, traces=collector.url) as site:
        assert site.get("/v2/health/live").status == site.get("/metrics").status == 200
        site.service.close()

    assert collector.spans == []


def test_server_timing_is_told_to_who_asks_only(collector: Collector) -> None:
    with Site({"doubling": doubling()}, traces=collector.url) as site:
        plain = site.request("POST", INFER, BODY)
        asked = site.request("POST", INFER, BODY, headers={"x-server-timing": "1"})
        site.service.close()

    assert "server-timing" not in plain.headers
    assert "run;dur=" in asked.headers["server-timing"]


def test_a_call_of_grpc_is_a_span_too(collector: Collector) -> None:
    with GrpcSite({"doubling": doubling()}, traces=collector.url) as site:
        site.run(site.call(raw_request("doubling", rows([1, 2])), metadata=tuple(SAMPLED.items())))
        assert site.refusal(raw_request("other", rows([1, 2])))[0] == "NOT_FOUND"
        site.service.close()

    known, unknown = [span for span in collector.spans if span.name == "inference.GRPCInferenceService/ModelInfer"]
    assert (known.trace_id.hex(), known.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(known)["rpc.grpc.status_code"] == 0
    assert {span.name for span in collector.spans if span.parent_span_id == known.span_id} >= {"queue", "run", "batch"}
    assert attributes(unknown)["rpc.grpc.status_code"] == 5


def test_a_collector_that_is_gone_costs_no_answer(
    collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # seconds; then it is not tried again
    collector.close()
    with Site({"doubling": doubling()}, traces=collector.url) as site:
        assert site.request("POST", INFER, BODY).status == 200
        site.service.close()

    assert [record.getMessage() for record in caplog.records if record.name == EXPORTER and record.levelname == "ERROR"] == [
        "Failed to export spans batch due to timeout, max retries or shutdown."
    ]


def test_the_exporter_says_a_thing_once_in_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    tracing = open_tracing("http://127.0.0.1:9")  # nothing is sent
    assert tracing is not None
    for _ in range(3):
        logging.getLogger(EXPORTER).error("Failed to export %s batch", "spans")
    logging.getLogger(EXPORTER).error("another")
    tracing.close()

    assert [record.getMessage() for record in caplog.records] == ["Failed to export spans batch", "another"]


def test_a_server_that_is_told_to_stop_sends_what_it_has(collector: Collector) -> None:
    server = RunningServer(
        "served_models:dense", environment={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
    )
    try:
        body = json.dumps({"inputs": [tensor("x", "FP32", [1, 16], [0] * 16)]}).encode()
        urllib.request.urlopen(f"{server.url}/v2/models/dense/infer", body).close()
        assert collector.spans == []
        assert server.stop() == 0
    finally:
        server.close()

    assert attributes(collector.named("POST /v2/models/{model}/infer"))["nograd.model"] == "dense"


def test_without_traces_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import sys; from tests.fakes import *\n"
        "with Site({'d': doubling()}) as site: assert site.infer('d', x([1, 2])).status == 200\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_without_its_packages_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from nograd.cli import main\n"
        "sys.argv = ['nograd', 'serve', 'nothing', '--traces', 'http://localhost:4318']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.strip().endswith("pip install 'nograd[otel]'")


def test_an_address_that_is_no_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="traces is 'localhost:4317'; it is the URL"):
        ServeConfig(traces="localhost:4317")
