"""Compressed bodies (I14), and what may not be done with them (I13)."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd.errors import NogradError, TooLargeError
from nograd.server.http.bodies import inflated
from tests.fakes import Site, doubling, x

INFER = "/v2/models/doubling/infer"

BODY = json.dumps({"inputs": [x([1, 2])]}).encode()

ZIPPED = gzip.compress(BODY, mtime=0)  # the bytes are part of test names, which must be equal in all of xdist's workers

RAW = zlib.compressobj(wbits=-15)

COMPRESSED = {
    "gzip": ZIPPED,
    "GZIP": ZIPPED,
    "x-gzip": ZIPPED,
    "deflate": zlib.compress(BODY),
    "deflate ": RAW.compress(BODY) + RAW.flush(),
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site({"doubling": doubling()}, max_body_bytes=4096) as site:
        yield site


@pytest.mark.parametrize("encoding", list(COMPRESSED))
@pytest.mark.parametrize("piece", [7, 10_000])
def test_i14_a_compressed_body_is_the_same_request(site: Site, encoding: str, piece: int) -> None:
    body = COMPRESSED[encoding]
    pieces = [body[start : start + piece] for start in range(0, len(body), piece)]

    assert site.request("POST", INFER, pieces, headers={"content-encoding": encoding}).data() == [2, 4]


def test_b1_the_header_of_a_compressed_binary_request_counts_decompressed_bytes(site: Site) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"content-encoding": "gzip", "inference-header-content-length": str(len(head))}

    reply = site.request("POST", INFER, gzip.compress(head + b"\0\0\x80\x3f\0\0\0\x40"), headers=headers)

    assert reply.data() == [2, 4]


@pytest.mark.parametrize(
    ("encoding", "body", "said"),
    [
        ("gzip", BODY, "the body is not gzip, contrary to its content-encoding"),
        ("deflate", BODY, "the body is not deflate, contrary to its content-encoding"),
        ("gzip", ZIPPED[:-1], "the gzip body is truncated"),
        ("gzip", b"", "the gzip body is truncated"),
        ("gzip", ZIPPED + b"more", "the body has 4 bytes after the end of its gzip data"),
        ("deflate", zlib.compress(BODY) * 2, "after the end of its deflate data"),
    ],
)
def test_i14_a_body_that_is_not_what_it_says_is_a_400(site: Site, encoding: str, body: bytes, said: str) -> None:
    reply = site.request("POST", INFER, body, headers={"content-encoding": encoding})

    assert (reply.status, said in reply.error) == (400, True), reply.error


def test_i13_a_bomb_is_a_413_and_costs_no_more_than_the_limit() -> None:
    bomb = gzip.compress(bytes(50 * 2**20))
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError, match="more than 1000000 bytes when decompressed"):
            inflated(bomb, b"gzip", 1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 3_000_000


@pytest.mark.parametrize("more", [0, 1])
def test_i13_the_limit_is_the_last_size_that_is_taken(site: Site, more: int) -> None:
    padded = BODY.ljust(4096 + more)

    reply = site.request("POST", INFER, gzip.compress(padded), headers={"content-encoding": "gzip"})

    assert reply.status == (413 if more else 200)


@given(st.binary(max_size=300), st.sampled_from([b"gzip", b"deflate"]))
def test_what_was_compressed_comes_back(body: bytes, encoding: bytes) -> None:
    packed = gzip.compress(body) if encoding == b"gzip" else zlib.compress(body)

    assert inflated(packed, encoding, 300) == body


@given(st.integers(0, 60), st.binary(max_size=2), st.sampled_from([b"gzip", b"deflate"]))
def test_whatever_is_sent_as_compressed_is_an_error_of_ours_or_its_content(place: int, change: bytes, encoding: bytes) -> None:
    packed = bytearray(gzip.compress(BODY) if encoding == b"gzip" else zlib.compress(BODY))
    packed[place : place + 1] = change

    try:
        found = inflated(bytes(packed), encoding, 1000)
    except NogradError:
        return

    assert len(found) <= 1000
