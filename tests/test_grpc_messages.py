"""The protocol's messages: the committed descriptor, and its company in a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from nograd.errors import ProtocolError, TooLargeError
from nograd.server.grpc import messages, wire
from nograd.server.grpc.messages import POOL, SERVICE, ModelInferRequest, parse
from nograd.server.grpc.wire import require_few_fields
from tests.waiting import HANG_S

FOLDER = Path(messages.__file__).parent


def test_the_committed_descriptor_is_the_proto_file_s(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is not installed; run: pip install 'nograd[dev]'")
    out = tmp_path / "inference.binpb"

    assert protoc.main(["protoc", f"-I{FOLDER}", f"--descriptor_set_out={out}", "inference.proto"]) == 0

    made, kept = (descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()) for path in (out, FOLDER / out.name))
    assert made == kept


def fields(message: Any) -> dict[str, tuple[Any, ...]]:
    """Every field of a message and of the messages in it: number, kind, repeated, the oneof it is in."""
    found = {}
    for field in message.fields:
        inside = field.message_type.full_name if field.message_type else None
        oneof = field.containing_oneof.name if field.containing_oneof else None
        found[field.full_name] = (field.number, field.type, field.is_repeated, inside, oneof)
    for nested in message.nested_types:
        found |= fields(nested)
    return found


CONFIGURATION = (
    "ModelConfig", "ModelDynamicBatching", "ModelInput", "ModelInstanceGroup", "ModelOutput", "ModelStatistics",
)  # fmt: skip
"""Of these, only the fields are here that there is something to say of."""


def test_g1_names_and_numbers_are_those_that_tritonclient_has() -> None:
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed; run: pip install 'nograd[dev]'")
    theirs = descriptor_pool.Default()
    file = POOL.FindFileByName("inference.proto")

    for name, message in file.message_types_by_name.items():
        ours = fields(message)
        ours.pop("inference.ModelMetadataResponse.properties", None)  # the protocol's, not Triton's
        ours = {key: value for key, value in ours.items() if "PropertiesEntry" not in key}
        known = fields(theirs.FindMessageTypeByName(f"inference.{name}"))
        if name in CONFIGURATION:
            assert ours.items() <= known.items(), name
        else:
            assert ours == known, name
    their_methods = theirs.FindServiceByName(SERVICE).methods_by_name
    for name, method in POOL.FindServiceByName(SERVICE).methods_by_name.items():
        their = their_methods[name]
        assert method.input_type.full_name == their.input_type.full_name
        assert method.output_type.full_name == their.output_type.full_name
        assert (method.client_streaming, method.server_streaming) == (their.client_streaming, their.server_streaming)
    for name, enum in file.enum_types_by_name.items():
        theirs_ = theirs.FindEnumTypeByName(f"inference.{name}")
        assert [(each.name, each.number) for each in enum.values] == [(each.name, each.number) for each in theirs_.values]


@pytest.mark.parametrize(
    "order", [("tritonclient.grpc", "front"), ("front", "tritonclient.grpc")], ids=["theirs first", "ours first"]
)
def test_the_client_and_the_server_live_in_one_process(order: tuple[str, str]) -> None:
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed; run: pip install 'nograd[dev]'")
    lines = [f"import {name}" if name != "front" else "import nograd.server.grpc.front" for name in order]

    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=HANG_S, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_serving_http_imports_nothing_of_grpc() -> None:
    program = (
        "import sys, nograd, nograd.server.run, nograd.cli.application\n"
        "print([n for n in sys.modules if n.startswith(('grpc', 'google'))])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG_S, check=False)

    assert done.stdout == "[]\n"


def test_bytes_that_are_no_message_are_the_caller_s_error() -> None:
    with pytest.raises(ProtocolError, match="the message is not a ModelInferRequest"):
        parse(ModelInferRequest, b"\x0a\xff")


def _inputs(count: int) -> Any:
    request = ModelInferRequest(model_name="m")
    for index in range(count):
        request.inputs.add(name=f"x{index}", datatype="FP32", shape=[1])
    return request


def _texts(count: int) -> Any:
    request = ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="BYTES", shape=[count]).contents.bytes_contents.extend([b"a"] * count)
    return request


def _parameters(count: int) -> Any:
    request = _inputs(1)
    for index in range(count):
        request.inputs[0].parameters[f"p{index}"].double_param = index
    return request


@pytest.mark.parametrize("make", [_inputs, _texts, _parameters])
def test_the_fields_of_a_message_are_counted_before_it_is_parsed(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FIELDS", 100)
    require_few_fields(make(20).SerializeToString(), max_texts=10)
    with pytest.raises(TooLargeError, match="more than 110 fields; a request may have at most 10 texts, and 100 inputs"):
        require_few_fields(make(120).SerializeToString(), max_texts=10)


def test_numbers_of_any_count_are_one_field_and_damage_ends_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FIELDS", 20)
    request = _inputs(1)
    request.inputs[0].contents.int64_contents.extend(range(-500, 500))
    request.inputs[0].contents.fp64_contents.extend([0.5] * 500)
    whole = request.SerializeToString()
    for body in (
        whole,
        *(whole[:cut] for cut in range(0, len(whole), 97)),
        b"\xff" * 50,
        b"\x2a\xff\xff\xff\xff\x0f",
        b"\x0b\x0c",
    ):
        require_few_fields(body, max_texts=0)
