"""Credentials in URLs: masked in what is printed, in the log, and in errors."""

from __future__ import annotations

import logging

import pytest

from nograd.errors import ConfigError
from nograd.runtime.redaction import is_masked, mask_credentials, mask_url
from nograd.server.settings.definition import ServeConfig
from nograd.server.settings.model_config import ModelConfig
from nograd.server.settings.printing import to_toml
from nograd.server.settings.resolution import ResolvedSettings

SECRET = "h3lio/s"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        (f"rediss+cluster://cache:{SECRET}@10.0.0.1:6379", "rediss+cluster://***@10.0.0.1:6379"),
        (f"redis://:a@{SECRET}@host/0", "redis://***@host/0"),
        (f"unix:///run/redis.sock?password={SECRET}&db=2", "unix:///run/redis.sock?password=***&db=***"),
        (f"https://store/m.onnx?sig={SECRET}#v={SECRET}", "https://store/m.onnx?sig=***#***"),
        (f"https://store/m.onnx#{SECRET}", "https://store/m.onnx#***"),
        ("redis://@host", "redis://@host"),
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
        ("a@b:c", "a@b:c"),
    ],
)
def test_user_password_and_query_of_a_url_are_masked(url: str, masked: str) -> None:
    assert mask_url(url) == masked
    assert is_masked(masked) == ("=***" in masked or "***@" in masked)
    assert mask_url(masked) == masked


def test_every_url_of_a_text_is_masked_and_addresses_of_mail_are_not() -> None:
    text = "a://u:p@h failed; retried b://:q@h/0, mail ops@example.org about c://h/x@y"

    assert mask_credentials(text) == "a://***@h failed; retried b://***@h/0, mail ops@example.org about c://h/x@y"


def test_printed_settings_hold_no_credentials_wherever_they_are() -> None:
    config = ServeConfig(cache_url=f"redis://me:{SECRET}@h", traces=f"https://tok:{SECRET}@otel", api_keys_file="keys")
    models = (ModelConfig(f"https://me:{SECRET}@store/m.onnx", "m"),)

    printed = to_toml(ResolvedSettings(config, models))

    assert SECRET not in printed
    assert 'traces = "https://***@otel"' in printed
    assert 'model = "https://***@store/m.onnx"' in printed


@pytest.mark.parametrize("name", ["cache_url", "traces"])
def test_a_masked_url_is_not_taken_for_the_url(name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^{name} is 'https://\*\*\*@h', which --print-config has masked; insert the credentials"
    ):
        ServeConfig(**{name: "https://***@h"})  # type: ignore[arg-type]  # one text


def test_an_error_about_a_url_has_no_credentials() -> None:
    with pytest.raises(ConfigError) as raised:
        ServeConfig(traces=f"grpc://me:{SECRET}@otel:4317")

    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_line_of_the_log_has_no_credentials(log_format: str) -> None:
    from nograd.server.telemetry.logs import _LineFormatter

    ours = logging.LogRecord("nograd", logging.INFO, "", 0, "starting", None, None)
    ours.fields = {"models": ["https://me:swordfish@store/m.onnx"]}
    theirs = logging.LogRecord("redis", logging.WARNING, "", 0, "cannot reach %s", ("redis://:swordfish@h",), None)

    lines = [_LineFormatter(log_format, {}).format(record) for record in (ours, theirs)]

    assert all("://***@" in line and "swordfish" not in line for line in lines)
