"""Whatever a client sends, it is answered, and never with a fault of the server (I13)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd import TensorSpec
from tests.fakes import DATATYPES, Reply, Site, echoing, tensor

DATA = {"BYTES": ["a", "b"], "BOOL": [True, False]}

datatypes = st.sampled_from(sorted(DATATYPES))
places = st.sampled_from(["inputs", 0, "name", "shape", "datatype", "data", "outputs", "parameters"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from([2**63, 2**64, -1, 0]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "t", "data", "timeout"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    echoes = {name: echoing(TensorSpec("t", dtype, ("n",))) for name, dtype in DATATYPES.items()}
    with Site(echoes, max_batch_size=4, max_queue_rows=64) as site:
        yield site


def valid(datatype: str) -> dict[str, Any]:
    """A request that the echo of a datatype answers."""
    one = tensor("t", datatype, [1, 2], DATA.get(datatype, [1, 2]))
    return {"inputs": [one], "outputs": [{"name": "t"}], "parameters": {}}


def with_value_at(request: Any, path: list[str | int], value: Any) -> Any:
    """Put a value into a request, as deep as the path leads."""
    place = request
    for step in path:
        inner = place.get(step) if isinstance(place, dict) else place[0] if step == 0 else None
        if isinstance(inner, dict) or (isinstance(inner, list) and inner):
            place = inner
    if isinstance(place, dict):
        place[path[-1] if path else "inputs"] = value
    else:
        place[0] = value
    return request


def answered_without_fault(reply: Reply) -> bool:
    return reply.status == 200 or (bool(reply.error) and (reply.status < 500 or reply.status == 501))


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_the_request_that_is_changed_below_is_answered(site: Site, datatype: str) -> None:
    assert site.request("POST", f"/v2/models/{datatype}/infer", json.dumps(valid(datatype)).encode()).status == 200


@given(datatypes, st.lists(places, max_size=4), json_values)
def test_a_request_with_anything_anywhere(site: Site, datatype: str, path: list[str | int], value: Any) -> None:
    request = json.dumps(with_value_at(valid(datatype), path, value))

    reply = site.request("POST", f"/v2/models/{datatype}/infer", request.encode("utf-8", "surrogatepass"))

    assert answered_without_fault(reply)


@given(datatypes, st.lists(st.tuples(st.integers(0, 140), st.binary(max_size=2)), min_size=1, max_size=4))
def test_a_request_with_any_bytes_changed(site: Site, datatype: str, changes: list[tuple[int, bytes]]) -> None:
    request = bytearray(json.dumps(valid(datatype)).encode())
    for position, replacement in changes:
        request[position : position + 1] = replacement

    assert answered_without_fault(site.request("POST", f"/v2/models/{datatype}/infer", bytes(request)))


@pytest.mark.parametrize("datatype", ["BYTES", "FP32"])
def test_a_request_cut_off_anywhere(site: Site, datatype: str) -> None:
    request = json.dumps(valid(datatype)).encode()

    replies = [site.request("POST", f"/v2/models/{datatype}/infer", request[:size]) for size in range(len(request))]

    assert {reply.status for reply in replies} == {400}
    assert all(reply.error for reply in replies)
