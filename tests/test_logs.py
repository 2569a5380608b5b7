"""The log: one line an event, whoever says it; a traceback in it, and never the same one a thousand times."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator

import pytest

from nograd import Signature
from nograd.core.tensors import Batch
from nograd.server.telemetry import logs
from nograd.server.telemetry.logs import Repeats, configure, event, failure, line_of
from tests.fakes import OUTPUT, Fake, Site, X, x

AT = 1_764_139_335.1234


@pytest.fixture
def _own_log() -> Iterator[None]:
    """Give the process' log back as it was."""
    root, show = logging.getLogger(), warnings.showwarning
    handlers, level = list(root.handlers), root.level
    logging.captureWarnings(capture=False)  # a command that ran in this process may have begun to
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    warnings.showwarning = show


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    """Everything on stderr, which must be JSON, a line each."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_of_json_has_its_time_in_utc_its_level_its_event_and_what_is_known() -> None:
    line = line_of("json", AT, "info", "ready", {"model": "a b", "grpc": None, "rows": 3})

    assert line == '{"time":"2025-11-26T06:42:15.123Z","level":"info","event":"ready","model":"a b","rows":3}'


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("plain", "plain"),
        ("a b", '"a b"'),
        ("", '""'),
        ("x=1", '"x=1"'),
        ("two\nlines", '"two\\nlines"'),
        ('"', '"\\""'),
        (0.25, "0.25"),
    ],
)
def test_a_line_of_text_stays_one_line_whatever_a_value_holds(value: object, word: str) -> None:
    assert line_of("text", AT, "info", "ready", {"model": value}) == f"2025-11-26T06:42:15.123Z info ready model={word}"


@pytest.mark.usefixtures("_own_log")
def test_what_other_libraries_log_and_warn_of_has_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "info")

    event("ready", url="http://here")
    logging.getLogger("another.library").error("bad %s", "luck")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", stacklevel=1)

    ready, other, warned = lines(capsys)
    assert (ready["event"], ready["url"], ready["level"]) == ("ready", "http://here", "info")
    assert (other["event"], other["logger"], other["message"]) == ("log", "another.library", "bad luck")
    assert (warned["event"], warned["logger"], warned["level"]) == ("log", "py.warnings", "warning")
    assert "UserWarning: old" in str(warned["message"])


@pytest.mark.usefixtures("_own_log")
@pytest.mark.parametrize(("level", "seen"), [("debug", 2), ("info", 2), ("warning", 1), ("error", 0)])
def test_less_than_the_level_is_not_written(level: str, seen: int, capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", level)

    event("one")
    event("two", logging.WARNING)

    assert len(lines(capsys)) == seen


@pytest.mark.usefixtures("_own_log")
def test_an_error_has_its_traceback_in_the_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_repeats", Repeats())
    configure("json", "info")
    try:
        raise ValueError("a secret")
    except ValueError as error:
        failure("POST /here", error)

    (line,) = lines(capsys)
    assert (line["event"], line["level"], line["request"], line["error"]) == (
        "request_failed", "error", "POST /here", "ValueError: a secret",
    )  # fmt: skip
    assert str(line["traceback"]).startswith("Traceback (most recent call last):")
    assert "left_out" not in line


def test_the_same_error_is_told_once_in_a_while_with_how_often_it_was_left_out() -> None:
    repeats = Repeats(every_s=10)

    told = [repeats.left_out("KeyError: 'x'", now) for now in (0, 1, 9.9, 10, 11, 30)]

    assert told == [0, None, None, 2, None, 1]
    assert repeats.left_out("KeyError: 'y'", 11) == 0


def test_errors_that_are_all_different_are_not_remembered_without_end() -> None:
    repeats = Repeats(most=4)
    for number in range(100):
        assert repeats.left_out(f"error {number}", 0.0) == 0
        assert len(repeats._told) <= 4


def breaking() -> Fake:
    def run(batch: Batch) -> Batch:
        if (batch["x"] == 13).any():
            raise ValueError("thirteen")
        return {"output": batch["x"] * 2}

    return Fake(run, Signature((X,), (OUTPUT,), reason="rows are independent"))


def test_a_models_error_is_in_the_log_with_its_traceback_and_with_the_client_without(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_repeats", Repeats())
    with Site({"breaking": breaking()}) as site, caplog.at_level(logging.ERROR):
        replies = [site.infer("breaking", x([13, 1])) for _ in range(3)]
        good = site.infer("breaking", x([1, 1]))

    assert [reply.status for reply in replies] == [500] * 3
    assert replies[0].error == "the model raised ValueError: thirteen"
    assert good.status == 200
    (record,) = [each for each in caplog.records if each.msg == "request_failed"]  # the other two are the same error
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1].__cause__, ValueError)  # type: ignore[union-attr]
    assert record.fields["request"] == "POST /v2/models/breaking/infer"  # type: ignore[attr-defined]
