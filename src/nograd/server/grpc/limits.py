"""Limits of gRPC's connections, as options of its server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nograd.server.settings.definition import ServeConfig

__all__ = ["server_options"]

KEEPALIVE_S = 60
"""Seconds without data after which the server pings a client; it closes the connection if no reply comes in PING_TIMEOUT_S."""

PING_TIMEOUT_S = 20

LEAST_PING_S = 10
"""Seconds between two pings of a client without calls. gRPC's default of 300 disconnects clients with usual settings."""

MOST_CALLS = 1000
"""Calls at a time on one connection; a client holds back further calls until others end."""


def server_options(config: ServeConfig, *, shares_port: bool) -> tuple[tuple[str, int], ...]:
    """Return the options of the gRPC server.

    Args:
        config: settings of the server.
        shares_port: whether other processes of this server listen on the same port.
    """
    return (
        ("grpc.max_receive_message_length", config.max_body_bytes),  # compressed and decompressed
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", int(shares_port)),  # otherwise two servers would share calls unnoticed
        ("grpc.max_metadata_size", config.max_header_bytes),
        ("grpc.absolute_max_metadata_size", config.max_header_bytes),  # between the two, gRPC refuses calls at random
        ("grpc.server_handshake_timeout_ms", _ms(config.header_timeout_s)),
        ("grpc.max_connection_idle_ms", _ms(config.keep_alive_s)),
        ("grpc.max_concurrent_streams", MOST_CALLS),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_S * 1000),
        ("grpc.http2.min_ping_interval_without_data_ms", LEAST_PING_S * 1000),
    )


def _ms(seconds: float) -> int:
    """Return whole milliseconds within gRPC's range."""
    return max(1, min(round(seconds * 1000), 2**31 - 1))
