"""Limits of gRPC's connections."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from nograd.server.grpc.limits import server_options
from nograd.server.settings.definition import ServeConfig
from tests.fakes import doubling
from tests.grpc_site import GrpcSite, raw_request, rows

REQUEST = raw_request("doubling", rows([1.0, 2.0]))


def test_metadata_up_to_the_limit_is_taken_and_more_is_refused() -> None:
    with GrpcSite({"doubling": doubling()}, max_header_bytes=20_000) as site:

        def metadata(size: int) -> list[tuple[str, str]]:
            return [("a", "b" * size)]

        for _ in range(20):  # with gRPC's default, 8 to 16 KiB are refused at random
            site.run(site.call(REQUEST, metadata=metadata(18_000)))
        code, _ = site.refusal(REQUEST, metadata=metadata(21_000))

    assert code == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("seconds", [0.0001, 1e12])
def test_times_stay_within_the_range_of_grpc(seconds: float) -> None:
    options = dict(server_options(ServeConfig(keep_alive_s=seconds, header_timeout_s=seconds), shares_port=False))

    assert 1 <= options["grpc.max_connection_idle_ms"] < 2**31
    assert 1 <= options["grpc.server_handshake_timeout_ms"] < 2**31


def test_a_client_whose_connection_was_idle_for_too_long_connects_again_by_itself() -> None:
    with GrpcSite({"doubling": doubling()}, keep_alive_s=0.5) as site:  # no call meets a connection that closes

        async def talk() -> list[Any]:
            found = []
            for _ in range(3):
                answer = await site.call(REQUEST)
                found.append(np.frombuffer(answer.raw_output_contents[0] or b"", np.float32).tolist())
                await idle(site.channel)
            return found

        assert site.run(talk()) == [[2.0, 4.0]] * 3


async def idle(channel: Any) -> None:
    """Wait until the server has closed the channel's connection."""
    while (state := channel.get_state()) is grpc.ChannelConnectivity.READY:
        await channel.wait_for_state_change(state)
