"""The published client of the protocol, `tritonclient.http`, against real servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from nograd import __version__
from tests.running_server import RunningServer, serving

triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed; run: pip install 'nograd[dev]'")
utils = pytest.importorskip("tritonclient.utils")


@contextmanager
def client_of(server: RunningServer) -> Iterator[Any]:
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    try:
        yield client
    finally:
        client.close()


@pytest.fixture(scope="module")
def tiny(tiny_server: RunningServer) -> Iterator[Any]:
    with client_of(tiny_server) as client:
        yield client


@pytest.fixture(scope="module")
def text(text_server: RunningServer) -> Iterator[Any]:
    with client_of(text_server) as client:
        yield client


def given(name: str, array: Any, *, binary: bool = False) -> Any:
    found = triton.InferInput(name, list(array.shape), utils.np_to_triton_dtype(array.dtype))
    found.set_data_from_numpy(array, binary_data=binary)
    return found


def wanted(name: str, *, binary: bool = False) -> Any:
    return triton.InferRequestedOutput(name, binary_data=binary)


EXTENSIONS = ["binary_tensor_data", "statistics", "model_configuration", "schedule_policy"]
ROWS = np.arange(48, dtype=np.float32).reshape(3, 16)


def test_health(tiny: Any) -> None:
    assert tiny.is_server_live()
    assert tiny.is_server_ready()
    assert tiny.is_model_ready("tiny")
    assert tiny.is_model_ready("tiny", "1")
    assert not tiny.is_model_ready("other")


def test_metadata(tiny: Any, text: Any) -> None:
    assert tiny.get_server_metadata() == {"name": "nograd", "version": __version__, "extensions": EXTENSIONS}
    assert tiny.get_model_metadata("tiny", "1") == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "pytorch_dense",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}],
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 4]}],
    }
    metadata = text.get_model_metadata("echo")
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert metadata["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 8]}]


@pytest.mark.parametrize("outputs", [[wanted("output")], None], ids=["named", "all"])
def test_infer(tiny: Any, outputs: Any) -> None:
    result = tiny.infer("tiny", [given("x", ROWS)], outputs=outputs, request_id="mine", model_version="1")
    again = tiny.infer("tiny", [given("x", ROWS[1:2])], outputs=outputs)

    found = result.as_numpy("output")
    assert (found.dtype, found.shape) == (np.float32, (3, 4))
    np.testing.assert_allclose(found[1:2], again.as_numpy("output"), rtol=1e-5)
    assert result.get_response()["id"] == "mine"
    assert result.get_response()["model_name"] == "tiny"


@pytest.mark.parametrize("sent", [True, False], ids=["sent in binary", "sent as JSON"])
@pytest.mark.parametrize("got", [True, False], ids=["answered in binary", "answered as JSON"])
def test_b10_binary_and_json_are_the_same_numbers(tiny: Any, sent: bool, got: bool) -> None:
    plain = tiny.infer("tiny", [given("x", ROWS)], outputs=[wanted("output")])

    result = tiny.infer("tiny", [given("x", ROWS, binary=sent)], outputs=[wanted("output", binary=got)])

    np.testing.assert_array_equal(result.as_numpy("output"), plain.as_numpy("output"))
    (output,) = result.get_response()["outputs"]
    assert output.get("parameters") == ({"binary_data_size": 48} if got else None)


def test_b10_text_in_binary(text: Any) -> None:
    texts = np.array(["hello", "Zürich", "x"], dtype=object)

    found = [text.infer("echo", [given("text", texts, binary=binary)]).as_numpy("embedding") for binary in (True, False)]

    assert found[0].shape == (3, 8)
    np.testing.assert_array_equal(*found)


def test_the_parameters_that_the_client_knows_are_no_error(tiny: Any) -> None:
    result = tiny.infer(
        "tiny",
        [given("x", ROWS)],
        outputs=[wanted("output")],
        priority=1,
        timeout=5_000_000,
        sequence_id=7,
        parameters={"mine": "x"},
    )

    assert result.as_numpy("output").shape == (3, 4)


def test_requests_at_once_get_their_own_answers(tiny: Any, tiny_server: RunningServer) -> None:
    client = triton.InferenceServerClient(tiny_server.url.removeprefix("http://"), concurrency=8)
    whole = tiny.infer("tiny", [given("x", ROWS)], outputs=[wanted("output")]).as_numpy("output")
    try:
        calls = [client.async_infer("tiny", [given("x", ROWS[i % 3 :][:1])], outputs=[wanted("output")]) for i in range(24)]
        found = [call.get_result().as_numpy("output")[0] for call in calls]
    finally:
        client.close()

    np.testing.assert_allclose(found, [whole[i % 3] for i in range(24)], rtol=1e-5)


def test_s1_statistics_count_what_was_asked(stoppable_server: RunningServer) -> None:
    rows = np.random.default_rng(1).random((3, 16), np.float32)  # that nobody has asked for

    with client_of(stoppable_server) as own:  # whose cache nobody's hundreds of lookups can have turned off
        (before,) = own.get_inference_statistics("tiny", "1")["model_stats"]
        own.infer("tiny", [given("x", rows)])
        own.infer("tiny", [given("x", rows)])
        (after,) = own.get_inference_statistics()["model_stats"]

    def grown(name: str) -> int:
        return int(after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"])

    assert after["inference_count"] - before["inference_count"] == 3
    assert 1 <= after["execution_count"] - before["execution_count"] <= 3  # as the cost of its runs, measured, has it
    assert [grown(name) for name in ("success", "fail", "queue", "compute_infer", "cache_hit", "cache_miss")] == [
        2, 0, 2, 1, 1, 1,
    ]  # fmt: skip
    assert after["last_inference"] >= before["last_inference"]


def test_s2_the_configuration_is_what_metadata_say(tiny: Any, text: Any) -> None:
    found, of_text = tiny.get_model_config("tiny"), text.get_model_config("echo", "1")

    assert (found["name"], found["max_batch_size"]) == ("tiny", 32)
    assert [(each["name"], each["data_type"], each["dims"]) for each in found["input"]] == [("x", "TYPE_FP32", [16])]
    assert [(each["name"], each["data_type"], each["dims"]) for each in found["output"]] == [("output", "TYPE_FP32", [4])]
    assert [(each["name"], each["data_type"], each["dims"]) for each in of_text["input"]] == [("text", "TYPE_STRING", [])]


@pytest.mark.parametrize("shape", [(2,), (2, 1)], ids=str)
def test_text(text: Any, shape: tuple[int, ...]) -> None:
    texts = np.array(["hello", "Zürich"], dtype=object).reshape(shape)

    result = text.infer("echo", [given("text", texts)], outputs=[wanted("embedding")])

    assert result.as_numpy("embedding").shape == (2, 8)


@pytest.mark.parametrize(
    ("model", "inputs", "status", "said"),
    [
        ("other", [given("x", ROWS)], "404", "there is no model 'other'; served here: 'tiny'"),
        ("tiny", [given("y", ROWS)], "400", "unknown input 'y'; the model takes 'x'"),
        ("tiny", [given("x", ROWS.astype(np.float64))], "400", "input 'x' has datatype FP64; the model takes FP32"),
        ("tiny", [given("x", ROWS[:, :15])], "400", "input 'x' is float32 [3, 15]; the model takes float32 [rows, 16]"),
        ("tiny", [given("x", ROWS[:, :15], binary=True)], "400", "input 'x' is float32 [3, 15]; the model takes float32"),
    ],
    ids=["model", "input", "datatype", "shape", "binary shape"],
)
def test_errors_come_with_their_status_and_sentence(tiny: Any, model: str, inputs: Any, status: str, said: str) -> None:
    with pytest.raises(utils.InferenceServerException) as raised:
        tiny.infer(model, inputs, outputs=[wanted("output")])

    assert raised.value.status() == status
    assert said in raised.value.message()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_a_compressed_request_is_the_same_request(tiny: Any, algorithm: str, binary: bool) -> None:
    plain = tiny.infer("tiny", [given("x", ROWS)], outputs=[wanted("output")])

    found = tiny.infer(
        "tiny", [given("x", ROWS, binary=binary)], outputs=[wanted("output")], request_compression_algorithm=algorithm
    )

    np.testing.assert_array_equal(found.as_numpy("output"), plain.as_numpy("output"))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_client_that_would_take_a_compressed_answer_gets_a_plain_one(tiny: Any, algorithm: str) -> None:
    result = tiny.infer("tiny", [given("x", ROWS)], outputs=[wanted("output")], response_compression_algorithm=algorithm)

    assert result.as_numpy("output").shape == (3, 4)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_long_answer_comes_compressed_and_is_the_same(tiny: Any, algorithm: str) -> None:
    many = np.random.default_rng(2).random((1000, 16), np.float32)
    inputs, outputs = [given("x", many, binary=True)], [wanted("output")]
    plain = tiny.infer("tiny", inputs, outputs=outputs)

    result = tiny.infer("tiny", inputs, outputs=outputs, response_compression_algorithm=algorithm)

    np.testing.assert_allclose(result.as_numpy("output"), plain.as_numpy("output"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("call", ["get_trace_settings", "get_log_settings"])
def test_an_extension_that_there_is_not_is_a_404(tiny: Any, call: str) -> None:
    with pytest.raises(utils.InferenceServerException) as raised:
        getattr(tiny, call)()

    assert raised.value.status() == "404"


# -- the extension model_repository


@pytest.fixture(scope="module")
def repository() -> Iterator[Any]:
    with serving("dense", "--name", "tiny", "--repository") as server, client_of(server) as client:
        yield client


def states(client: Any) -> list[tuple[str, str, str]]:
    return [(each["name"], each["version"], each["state"]) for each in client.get_model_repository_index()]


def test_models_are_listed_unloaded_and_loaded(repository: Any) -> None:
    before = repository.infer("tiny", [given("x", ROWS)]).as_numpy("output")
    assert states(repository) == [("tiny", "1", "READY")]
    repository.load_model("tiny")
    repository.unload_model("tiny")
    assert states(repository) == [("tiny", "1", "UNAVAILABLE")]
    assert not repository.is_model_ready("tiny")
    with pytest.raises(utils.InferenceServerException, match="there is no model 'tiny'"):
        repository.infer("tiny", [given("x", ROWS)])
    repository.load_model("tiny")

    assert np.array_equal(repository.infer("tiny", [given("x", ROWS)]).as_numpy("output"), before)


def test_what_a_client_sends_along_is_not_loaded(repository: Any) -> None:
    with pytest.raises(utils.InferenceServerException, match="parameter 'config' is not supported"):
        repository.load_model("tiny", config='{"backend": "python"}')
    with pytest.raises(utils.InferenceServerException, match="there is no model 'other' to load"):
        repository.load_model("other")


def test_where_it_is_off_the_client_is_told_so(tiny: Any) -> None:
    for call in (tiny.get_model_repository_index, lambda: tiny.load_model("tiny"), lambda: tiny.unload_model("tiny")):
        with pytest.raises(utils.InferenceServerException, match="the repository extension is off"):
            call()
    assert tiny.is_model_ready("tiny")
