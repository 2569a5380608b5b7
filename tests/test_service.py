"""Models behind their batchers: what goes in and out, and how they begin and end. No HTTP beyond the application's entry."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from nograd import Predictor, Signature, TensorSpec
from nograd.core.tensors import Batch
from nograd.errors import ConfigError, NogradError
from nograd.server.settings.definition import ServeConfig
from tests.fakes import GATE, OUTPUT, Fake, Gate, Reply, Site, X, asgi, doubling, echoing, tensor, x

LETTERS = TensorSpec("letters", "int64", ("n",))
TEXT = TensorSpec("text", "bytes")


class Letters:
    """A preprocess: the letters of a text."""

    item = TEXT

    def __call__(self, text: str) -> dict[str, Any]:
        if not text.isascii():
            raise ValueError(f"{text!r} is not ASCII")
        return {"letters": np.frombuffer(text.encode(), np.uint8).astype(np.int64)}


def lengths() -> Fake:
    """`length` of each row of `letters`, where 0 is padding."""
    spec = Signature((LETTERS,), (TensorSpec("length", "int64"),))
    return Fake(lambda batch: {"length": (batch["letters"] > 0).sum(1)}, spec)


def text_model(postprocess: Callable[[Any], Any] | None = None) -> Predictor:
    return Predictor(lengths(), preprocess=Letters(), postprocess=postprocess, sample=["abc"])


def texts(*values: str, column: bool = False) -> dict[str, Any]:
    return tensor("text", "BYTES", [len(values), 1] if column else [len(values)], list(values))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    two = Signature(
        (X, TensorSpec("n", "int64"), TensorSpec("scale", "float32", default=1)), (OUTPUT, TensorSpec("sum", "float32"))
    )

    def add(batch: Batch) -> Batch:
        total = (batch["x"] + batch["n"][:, None]) * batch["scale"][:, None]
        return {"output": total, "sum": total.sum(1)}

    with Site({"doubling": doubling(), "two": Fake(add, two)}, max_batch_size=4, max_queue_rows=64) as site:
        yield site


# -- inputs and outputs


def test_i8_only_the_outputs_asked_for_come_and_in_that_order(site: Site) -> None:
    inputs = (x([1, 2]), tensor("n", "INT64", [1], [10]))

    def names(**more: Any) -> list[str]:
        return [output["name"] for output in site.infer("two", *inputs, **more).json["outputs"]]

    assert names() == names(outputs=[]) == ["output", "sum"]
    assert names(outputs=[{"name": "sum"}, {"name": "output"}]) == ["sum", "output"]
    assert names(outputs=[{"name": "sum"}]) == ["sum"]


def test_an_input_with_a_default_may_be_left_out(site: Site) -> None:
    n, scale = tensor("n", "INT64", [1], [10]), tensor("scale", "FP32", [1], [0.5])

    assert site.infer("two", x([1, 2]), n).data() == [11, 12]
    assert site.infer("two", scale, n, x([1, 2])).data() == [5.5, 6]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([x([1, 2])], "input 'n' is missing; the model takes 'x', 'n'"),
        ([x([1, 2], [3, 4]), tensor("n", "INT64", [1], [1])], "input 'n' has 1 rows, input 'x' has 2; they must agree"),
        ([x([1, 2]), tensor("n", "INT64", [1, 1], [1])], "input 'n' is int64 [1, 1]; the model takes int64 [rows]"),
    ],
)
def test_i7_i10_inputs_that_do_not_go_together_are_refused(site: Site, inputs: list[Any], said: str) -> None:
    reply = site.infer("two", *inputs)

    assert reply.status == 400
    assert said in reply.error


def test_i9_more_rows_than_a_batch_are_cut_and_joined(site: Site) -> None:
    rows = [[float(i), -float(i)] for i in range(11)]

    reply = site.infer("doubling", x(*rows))

    assert reply.json["outputs"][0]["shape"] == [11, 2]
    assert reply.data() == [2 * value for row in rows for value in row]


def test_o1_an_id_is_echoed_and_made_where_there_is_none(site: Site) -> None:
    ids = [site.infer("doubling", x([1, 2]), **more).json["id"] for more in ({"id": "mine"}, {}, {}, {"id": ""})]

    assert ids[0] == "mine"
    assert len(set(ids)) == 4
    assert all(isinstance(each, str) and each for each in ids)


@pytest.mark.parametrize("column", [False, True], ids=["[rows]", "[rows, 1]"])
def test_text_comes_one_string_a_row_or_in_a_column(column: bool) -> None:
    with Site({"text": text_model()}) as site:
        assert site.infer("text", texts("abc", "a", column=column)).data("length") == [3, 1]


def test_texts_of_one_request_run_together_and_come_back_in_order() -> None:
    predictor = text_model()
    with Site({"text": predictor}) as site:
        reply = site.infer("text", texts("abc", "a", "abcdefg"))
        metadata = site.get("/v2/models/text").json

    assert reply.data("length") == [3, 1, 7]
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert metadata["outputs"] == [{"name": "length", "datatype": "INT64", "shape": [-1]}]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (texts("fine", ""), "item 1: input 'letters' has 0 n; the model takes at least 1"),
        (texts("fine", "ü"), "item 1: preprocess raised ValueError: 'ü' is not ASCII"),
        (tensor("text", "BYTES", [1, 2], ["a", "b"]), "the model takes text [rows]"),
        (tensor("text", "BYTES", [0], []), "input 'text' has no rows"),
        (tensor("text", "INT64", [1], [1]), "input 'text' has datatype INT64; the model takes BYTES"),
    ],
)
def test_an_item_that_cannot_be_prepared_is_the_callers_and_named(inputs: dict[str, Any], said: str) -> None:
    with Site({"text": text_model()}) as site:
        reply = site.infer("text", inputs)

    assert reply.status == 400
    assert said in reply.error


def test_a_model_whose_own_input_is_text_is_served() -> None:
    with Site({"echo": echoing(TEXT)}) as site:
        assert site.infer("echo", texts("a", "null", "漢")).data("text") == ["a", "null", "漢"]


# -- answers made by a postprocess


@pytest.mark.parametrize(
    ("postprocess", "outputs"),
    [
        (lambda row: float(row["length"]) / 2, [("answer", "FP64", [2], [1.0, 1.5])]),
        (lambda row: int(row["length"]), [("answer", "INT64", [2], [2, 3])]),
        (lambda row: bool(row["length"] > 2), [("answer", "BOOL", [2], [False, True])]),
        (lambda row: "x" * int(row["length"]), [("answer", "BYTES", [2], ["xx", "xxx"])]),
        (lambda row: np.full(2, row["length"], np.float32), [("answer", "FP32", [2, 2], [2, 2, 3, 3])]),
        (lambda row: [{"n": int(row["length"])}], [("answer", "BYTES", [2], ['[{"n":2}]', '[{"n":3}]'])]),
        (lambda row: [[0], [0, 1][: int(row["length"])]], [("answer", "BYTES", [2], ["[[0],[0,1]]", "[[0],[0,1]]"])]),
        (lambda row: ["a"] * int(row["length"]), [("answer", "BYTES", [2], ['["a","a"]', '["a","a","a"]'])]),
        (lambda row: None, [("answer", "BYTES", [2], ["null", "null"])]),
        (
            lambda row: {"label": "long" if row["length"] > 2 else "short", "score": 0.5},
            [("label", "BYTES", [2], ["short", "long"]), ("score", "FP64", [2], [0.5, 0.5])],
        ),
    ],
    ids=["float", "int", "bool", "text", "array", "dicts", "ragged numbers", "ragged texts", "none", "by key"],
)
def test_postprocessed_answers_are_tensors_where_they_can_be_and_json_text_where_not(
    postprocess: Callable[[Any], Any], outputs: list[Any]
) -> None:
    with Site({"text": text_model(postprocess)}) as site:
        reply = site.infer("text", texts("ab", "abc"))

    assert reply.status == 200, reply.body
    found = [(each["name"], each["datatype"], each["shape"], each["data"]) for each in reply.json["outputs"]]
    assert found == outputs


def test_a_postprocess_that_raises_is_a_500_that_says_so_and_is_counted() -> None:
    def postprocess(row: Any) -> str:
        return {3: "three"}[int(row["length"])]

    with Site({"text": text_model(postprocess)}) as site:
        reply = site.infer("text", texts("ab"))
        model = site.get("/live.json").json["models"][0]

    assert reply.status == 500
    assert "postprocess raised KeyError: 2" in reply.error
    assert model["totals"]["errors"] == 1


# -- life


def test_the_example_of_every_model_is_a_request_that_it_answers(site: Site) -> None:
    for name in ("doubling", "two"):
        example = site.service.model(name).example_request()
        reply = site.request("POST", f"/v2/models/{name}/infer", json.dumps(example).encode())
        assert reply.status == 200


def test_a_large_example_is_not_shown() -> None:
    image = TensorSpec("image", "float32", (3, 32, 32))
    with Site({"image": echoing(image)}) as site:
        assert site.service.model("image").example_request() is None


def test_starting_measures_what_larger_batches_cost() -> None:
    model = doubling()
    with Site({"doubling": model}, max_batch_size=6) as site:
        curve = site.service.model("doubling").curve

    assert curve is not None
    assert curve.sizes == (1, 2, 4, 6)
    assert {len(batch["x"]) for batch in model.runs} == {1, 2, 4, 6}


def test_a_model_that_may_not_be_batched_is_measured_and_run_alone() -> None:
    model = Fake(
        lambda batch: {"output": batch["x"]}, Signature((X,), (OUTPUT,), batching="alone", reason="rows influence each other")
    )
    with Site({"alone": model}, max_batch_size=8) as site:
        answers = site.infer("alone", x([1, 2])).data(), site.infer("alone", x([3, 4], [5, 6])).data()

    assert answers == ([1, 2], [3, 4, 5, 6])
    assert [len(batch["x"]) for batch in model.runs[-2:]] == [1, 2]


def test_a_model_whose_lengths_vary_does_not_hold_up_the_server() -> None:
    gate = Gate()

    def run(batch: Batch) -> Batch:
        gate.pass_through(batch["letters"])
        return {"length": (batch["letters"] > 0).sum(1)}

    model = Fake(run, Signature((LETTERS,), (TensorSpec("length", "int64"),)))
    letters = json.dumps({"inputs": [tensor("letters", "INT64", [1, 3], [1, 2, int(GATE)])]}).encode()
    with Site({"letters": model}) as site:

        async def traffic() -> list[Reply | None]:
            long = asyncio.create_task(asgi(site.app, "POST", "/v2/models/letters/infer", letters))
            await gate.wait_entered()
            health = await asgi(site.app, "GET", "/v2/health/live")
            gate.opened.set()
            return [health, await long]

        assert [reply and reply.status for reply in site.run(traffic())] == [200, 200]


def test_draining_one_model_leaves_the_other_untouched() -> None:
    with Site({"first": doubling(), "second": doubling()}) as site:
        site.service.model("first").drain()

        assert site.infer("first", x([1, 2])).status == 503
        assert site.infer("second", x([1, 2])).data() == [2, 4]
        assert site.get("/v2/models/first/ready").status == 503
        assert site.get("/v2/models/second/ready").status == 200
        assert site.get("/v2/health/ready").status == 503


def test_a_model_that_fails_leaves_the_other_untouched() -> None:
    def broken(batch: Batch) -> Batch:
        if batch["x"].any():
            raise SystemExit("bye")
        return {"output": batch["x"]}

    with Site({"broken": Fake(broken, Signature((X,), (OUTPUT,))), "fine": doubling()}) as site:
        assert [site.infer("broken", x([1, 2])).status for _ in range(3)] == [500] * 3
        assert site.infer("fine", x([1, 2])).data() == [2, 4]
        assert site.infer("broken", x([0, 0])).data() == [0, 0]


@pytest.mark.parametrize("path", ["/live.json", "/metrics", "/v2/models/doubling", "/v2/health/ready"])
def test_a_server_that_has_not_started_can_be_asked_how_it_is(path: str) -> None:
    with Site({"doubling": doubling()}, started=False) as site:
        assert site.get(path).status == (503 if path.endswith("ready") else 200)
        assert site.infer("doubling", x([1, 2])).status == 503


def test_an_output_that_the_protocol_cannot_carry_is_refused_when_the_model_starts() -> None:
    spectrum = TensorSpec("spectrum", "complex64", (2,))
    model = Fake(lambda batch: {"spectrum": batch["x"] * 1j}, Signature((X,), (spectrum,)))
    with Site({"fft": model}, started=False) as site, pytest.raises(NogradError, match="output 'spectrum' is complex64"):
        site.run(site.service.start())


def test_stopping_twice_is_stopping_once() -> None:
    with Site({"doubling": doubling()}) as site:
        site.run(site.service.stop())
        assert site.infer("doubling", x([1, 2])).status == 503


# -- settings


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("port", 65536, "from 0 to 65535"),
        ("port", -1, "from 0 to 65535"),
        ("max_batch_size", 0, "at least 1"),
        ("max_queue_rows", 0, "at least 1"),
        ("max_body_bytes", 0, "at least 1"),
        ("max_wait_ms", -1.0, "0 or more, finite"),
        ("max_wait_ms", float("nan"), "0 or more, finite"),
        ("grace_s", float("inf"), "0 or more, finite"),
        ("timeout_s", 0.0, "above 0, finite"),
    ],
)
def test_a_setting_out_of_range_is_refused_before_anything_starts(setting: str, value: float, allowed: str) -> None:
    with pytest.raises(ConfigError) as raised:
        ServeConfig(**{setting: value})  # type: ignore[arg-type]

    assert str(raised.value) == f"{setting} is {value}; it must be {allowed}"


@pytest.mark.parametrize("binary", [False, True])
def test_text_arrays_of_a_postprocess_come_as_bytes_over_http_and_binary(binary: bool) -> None:
    with Site({"text": text_model(lambda row: np.array(["a", "bc"]))}) as site:
        metadata = site.get("/v2/models/text").json["outputs"]
        body = json.dumps(
            {"inputs": [texts("ab", "abc")], "outputs": [{"name": "answer", "parameters": {"binary_data": binary}}]}
        )
        reply = site.request("POST", "/v2/models/text/infer", body.encode())

    assert metadata == [{"name": "answer", "datatype": "BYTES", "shape": [-1, 2]}]
    assert reply.status == 200, reply.body
    if binary:
        assert reply.body.endswith(b"\x01\0\0\0a\x02\0\0\0bc" * 2)
    else:
        assert reply.json["outputs"][0]["data"] == ["a", "bc", "a", "bc"]


def test_a_row_that_does_not_fit_the_metadata_is_a_500_that_names_the_field() -> None:
    postprocesses: dict[str, Callable[[Any], Any]] = {
        "number": lambda row: {"score": 1 if row["length"] > 2 else 0.5},
        "key": lambda row: {"score": 1} if row["length"] > 2 else {"score": 1, "more": 1},
    }
    with Site({name: text_model(each) for name, each in postprocesses.items()}) as site:
        replies = {name: site.infer(name, texts("abc", "ab")) for name in postprocesses}

    assert {name: reply.status for name, reply in replies.items()} == {"number": 500, "key": 500}
    assert "'score' of postprocess's answer is float64; in its first answer it was int64" in replies["number"].error
    assert "key 'more' is new in an answer of postprocess" in replies["key"].error
