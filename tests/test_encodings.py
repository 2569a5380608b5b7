"""Accept-Encoding (I14): what a client takes, honoured; small answers and tensors in binary as they are."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from nograd import Signature, TensorSpec
from nograd.server.http.encodings import COMPRESSED_FROM, coding_of
from tests.fakes import Fake, Site, doubling, x

LONG = COMPRESSED_FROM
JSON = b"application/json"


@pytest.mark.parametrize(
    ("accepts", "coding"),
    [
        (None, b""),
        (b"", b""),
        (b"identity", b""),
        (b"br, zstd", b""),
        (b"gzip", b"gzip"),
        (b"GZIP", b"gzip"),
        (b"x-gzip", b"gzip"),
        (b"deflate", b"deflate"),
        (b"gzip, deflate", b"gzip"),
        (b"deflate, gzip", b"gzip"),
        (b"gzip, deflate, br, zstd", b"gzip"),
        (b"*", b"gzip"),
        (b"gzip;q=0.4, deflate;q=0.8", b"deflate"),
        (b"gzip; q=0.5 ,identity;q=0.5", b"gzip"),
        (b"gzip;q=0.5, identity", b""),
        (b"gzip;q=0, *", b"deflate"),
        (b"gzip;q=0", b""),
        (b"*;q=0", b""),
        (b"identity;q=0, *;q=0", b""),
        (b"gzip;q=much", b""),
        (b"gzip;q=7", b""),
        (b"gzip;level=9", b"gzip"),
        (b",,;q=1,", b""),
    ],
)
def test_i14_the_coding_that_is_most_welcome_is_taken(accepts: bytes | None, coding: bytes) -> None:
    found = coding_of(accepts, JSON, LONG)

    assert found.name == coding
    assert (b"vary", b"accept-encoding") in found.headers  # also where it is sent as it is: a cache must know
    assert ((b"content-encoding", coding) in found.headers) is bool(coding)


@pytest.mark.parametrize(
    ("accepts", "kind", "size"),
    [
        (b"gzip, deflate", JSON, LONG - 1),
        (b"gzip;q=1", JSON, LONG - 1),
        (b"gzip", b"application/octet-stream", LONG),
    ],
    ids=["short", "short, with a weight", "binary"],
)
def test_i14_what_is_not_worth_it_is_sent_as_it_is(accepts: bytes, kind: bytes, size: int) -> None:
    assert coding_of(accepts, kind, size) == (b"", ())


def test_i14_whoever_refuses_plain_answers_gets_short_ones_compressed_too() -> None:
    assert coding_of(b"identity;q=0, gzip", JSON, 10).name == b"gzip"
    assert coding_of(b"*;q=0, deflate;q=0.5", JSON, 10).name == b"deflate"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    spec = TensorSpec("x", "float32", (16384,))
    wide = Fake(lambda batch: {"output": batch["x"]}, Signature((spec,), (TensorSpec("output", "float32", (16384,)),)))
    with Site({"wide": wide, "doubling": doubling()}) as site:
        yield site


VALUES = np.arange(16384, dtype=np.float32) / 7


def body(**more: Any) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 16384], "data": VALUES.tolist()}
    return json.dumps({"inputs": [tensor], "id": "mine", **more}).encode()


INFLATE: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}


@pytest.mark.parametrize("coding", sorted(INFLATE))
def test_i14_a_long_answer_is_the_same_answer_compressed(site: Site, coding: str) -> None:
    plain = site.request("POST", "/v2/models/wide/infer", body())
    reply = site.request("POST", "/v2/models/wide/infer", body(), headers={"accept-encoding": coding})

    assert "content-encoding" not in plain.headers
    assert reply.headers["content-encoding"] == coding
    assert reply.headers["vary"] == plain.headers["vary"] == "accept-encoding"
    assert int(reply.headers["content-length"]) == len(reply.body) < len(plain.body) / 2
    assert INFLATE[coding](reply.body) == plain.body


def test_i14_a_short_answer_to_a_usual_client_is_what_it_always_was(site: Site) -> None:
    text = json.dumps({"inputs": [x([1, 2])], "id": "mine"}).encode()

    replies = [
        site.request("POST", "/v2/models/doubling/infer", text, headers=headers)
        for headers in ({}, {"accept-encoding": "gzip, deflate"})
    ]

    assert replies[0] == replies[1]


def test_i14_tensors_in_binary_come_as_they_are(site: Site) -> None:
    asking = body(parameters={"binary_data_output": True})

    reply = site.request("POST", "/v2/models/wide/infer", asking, headers={"accept-encoding": "gzip"})

    assert "content-encoding" not in reply.headers
    assert reply.body.endswith(VALUES.tobytes())


def test_a_head_has_no_body_to_compress(site: Site) -> None:
    reply = site.request("HEAD", "/openapi.json", headers={"accept-encoding": "gzip"})

    assert (reply.status, reply.body, "content-encoding" in reply.headers) == (200, b"", False)


def test_what_else_is_long_and_text_is_compressed_as_well(site: Site) -> None:
    plain = site.request("GET", "/openapi.json", headers={"accept-encoding": "identity"})
    reply = site.request("GET", "/openapi.json", headers={"accept-encoding": "identity;q=0, gzip"})

    assert gzip.decompress(reply.body) == plain.body
