"""Ray's `map_batches` holds answers of `postprocess` to one contract, on all actors. No cluster is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from nograd import Predictor
from nograd.datasets.columns import ColumnOptions
from nograd.errors import JobError
from nograd.predictors.postprocessed import AnswerFields
from tests.fakes import doubling

pytest.importorskip("ray")
pa = pytest.importorskip("pyarrow")

pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.")

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """What an actor makes its predictor of; see `nograd.ray.actors.Recipe`."""

    postprocess: Callable[[Any], Any]
    model: str = "the model"

    def predictor(self) -> Predictor:
        return Predictor(doubling(), postprocess=self.postprocess)


class Actors:
    """Two actors of one data set, in this process."""

    def __init__(self, postprocess: Callable[[Any], Any], *, skips: bool = False) -> None:
        from nograd.ray.contract import FirstFields
        from nograd.ray.data import _TablePredictor

        shared = FirstFields()
        self._actors = [
            _TablePredictor(
                Source(postprocess), ColumnOptions({}, None, ()), skips=skips, max_batch_size=4, overhead=None, shared=shared  # type: ignore[arg-type]
            )
            for _ in range(2)
        ]  # fmt: skip

    def run(self, actor: int, *values: float) -> Any:
        """Return the table of an actor for rows whose `x` begins with these values."""
        return self._actors[actor](pa.table({"id": list(range(len(values))), "x": [[value, 0.5] for value in values]}))


def first_of(output: Any) -> float:
    """Return twice the first number of a row."""
    return float(output[0])


def keyed(output: Any) -> Row:
    """`low` is absent for numbers above 10."""
    value = first_of(output)
    return {"value": value, "low": True} if value <= 10 else {"value": value}


def growing(output: Any) -> Row:
    """A list of one rank for numbers up to 10, of another above."""
    value = first_of(output)
    return {"value": [value] if value <= 10 else [[value]]}


def worded(output: Any) -> Row:
    """A number up to 10, text above."""
    value = first_of(output)
    return {"value": value if value <= 10 else "many"}


def keyed_model() -> Predictor:
    return Predictor(doubling(), postprocess=keyed)


CASES = [
    (keyed, "key 'low' is missing in an answer of postprocess"),
    (growing, "'value' of postprocess's answer is float64 of rank 2; in its first answer it was float64 of rank 1"),
    (worded, "'value' of postprocess's answer is text; in its first answer it was float64"),
]


@pytest.mark.parametrize(("postprocess", "said"), CASES)
@pytest.mark.parametrize("actor", [0, 1])
def test_a_row_with_other_keys_types_or_ranks_is_bad_on_every_actor(
    postprocess: Callable[[Any], Any], said: str, actor: int
) -> None:
    actors = Actors(postprocess)
    actors.run(0, 1, 2)

    with pytest.raises(JobError, match=said):
        actors.run(actor, 30, 40)


@pytest.mark.parametrize(("postprocess", "said"), CASES)
def test_such_rows_are_left_out_if_rows_are_skipped(
    postprocess: Callable[[Any], Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    actors = Actors(postprocess, skips=True)

    tables = [actors.run(0, 1, 30, 2), actors.run(1, 40, 3)]

    assert [table.column("id").to_pylist() for table in tables] == [[0, 2], [1]]
    assert tables[0].schema == tables[1].schema
    assert said in caplog.text


def test_integers_in_a_field_of_floats_are_floats_on_every_actor() -> None:
    actors = Actors(lambda output: {"value": int(v) if (v := first_of(output)) > 10 else v})

    tables = [actors.run(0, 1, 30), actors.run(1, 40, 50)]

    assert [table.column("value").to_pylist() for table in tables] == [[2.0, 60.0], [80.0, 100.0]]
    assert tables[0].schema == tables[1].schema


def test_the_first_fields_that_are_settled_stay() -> None:
    from nograd.ray.contract import FirstFields

    first, second = AnswerFields.of({"a": 1.0}), AnswerFields.of({"a": "text"})
    shared = FirstFields()

    assert [shared.settle(fields) for fields in (first, second, first)] == [first, first, first]


def test_a_model_without_postprocess_has_no_contract() -> None:
    from nograd.ray.contract import first_fields

    assert first_fields(Predictor(doubling()), [{"output": np.ones((1, 2), np.float32)}]) is None
