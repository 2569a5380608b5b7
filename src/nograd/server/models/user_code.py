"""Pre- and postprocessing of one served model: the user's functions, called in the model's own threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from nograd.batching.collate import merge, model_error
from nograd.core.tensors import TEXT, Array, Batch, Signature, TensorSpec
from nograd.errors import ConfigError, ModelError
from nograd.predictors.postprocessed import AnswerFields
from nograd.runtime.interrupts import is_interrupt

if TYPE_CHECKING:
    from nograd.predictors.predictor import Predictor
    from nograd.server.models.code_threads import CodeThreads
    from nograd.server.telemetry.server_timing import Timing

__all__ = ["UserCode", "example_of", "item_of"]

Result = TypeVar("Result")


class UserCode:
    """Converts a request's inputs to the model's parts, and the model's outputs to the request's outputs.

    Args:
        predictor: provides the functions; either may be missing.
        inputs: signature of the clients' inputs.
        threads: threads that call the functions.
    """

    def __init__(self, predictor: Predictor, inputs: Signature, threads: CodeThreads) -> None:
        self._predictor = predictor
        self._inputs = inputs
        self._threads = threads
        self._fields: AnswerFields | None = None
        """Fields of the answers of `postprocess`, fixed by its first answer at the start."""

        self.has_preprocess = predictor.has_preprocess
        self.has_postprocess = predictor.has_postprocess

    def items(self, inputs: Mapping[str, Array]) -> Array:
        """Return the items for `preprocess`, `[rows, ...]`.

        Raises:
            SignatureError: the inputs are not items of this model.
        """
        (items,) = self._inputs.check({name: _one_text_a_row(array) for name, array in inputs.items()}).values()
        return items

    def parts(self, inputs: Mapping[str, Array]) -> list[Batch]:
        """Return the model's parts for inputs, prepared in the calling thread; used at the start."""
        if not self.has_preprocess:
            return [self._inputs.check(inputs)]
        return [self._predictor.prepare_item(item, index) for index, item in enumerate(self.items(inputs))]

    async def prepare(self, items: Array, timeout_s: float, timing: Timing | None) -> list[Batch]:
        """Return the model's part for each item, prepared in a thread.

        Raises:
            ItemError: `preprocess` raised on an item.
            NogradError: as for `CodeThreads.run`.
        """
        return await self.prepare_by(
            lambda index: self._predictor.prepare_item(items[index], index), range(len(items)), timeout_s, timing
        )

    async def prepare_by(
        self, prepare: Callable[[int], Result], positions: Sequence[int], timeout_s: float, timing: Timing | None
    ) -> list[Result]:
        """Call a function that uses `preprocess` for each position, in a thread; errors as for `prepare`."""
        call = prepare if timing is None else _timed(prepare, timing)
        return await self._threads.run_each(call, positions, "preprocess", timeout_s=timeout_s)

    def outputs(self, parts: Sequence[Batch]) -> Mapping[str, Array]:
        """Join the outputs of a request's parts; apply `postprocess`, if there is one.

        Raises:
            ModelError: `postprocess` raised, or its answers differ in kind.
        """
        if not self.has_postprocess:
            return merge(parts)
        try:
            answers = [answer for part in parts for answer in self._predictor.answers(part)]
            if self._fields is None:
                self._fields = AnswerFields.of(answers[0])
            return self._fields.columns(answers)
        except ModelError:
            raise
        except BaseException as error:  # postprocess and the objects that it returns are the user's code
            if is_interrupt(error):
                raise
            raise model_error("postprocess", error) from error


def item_of(name: str, predictor: Predictor) -> TensorSpec:
    """Return the spec of one item: the declared one, or text if the sample's items are strings.

    Raises:
        ConfigError: the item is unknown.
    """
    if predictor.item is not None:
        return predictor.item
    if isinstance(predictor.example, str):
        return TensorSpec("text", TEXT)
    raise ConfigError(
        f"model {name!r} has a preprocess, but its items are unknown; "
        "give the Predictor `item=nograd.TensorSpec(name, dtype, shape)`, with dtype 'bytes' for strings"
    )


def example_of(predictor: Predictor, specs: Sequence[TensorSpec]) -> Mapping[str, Array]:
    """Return one row of example input by name, in the form that a client sends."""
    if not predictor.has_preprocess:
        arrays: Mapping[str, Array] = predictor.example
        return arrays
    spec = specs[0]
    column = np.empty(1, dtype=object) if spec.dtype == TEXT else np.empty((1, *np.shape(predictor.example)), dtype=spec.dtype)
    column[0] = predictor.example
    return {spec.name: column}


def _timed(prepare: Callable[[int], Result], timing: Timing) -> Callable[[int], Result]:
    """Return the function, with its time added to a request's."""

    def call(position: int) -> Result:
        begun = timing.now()
        try:
            return prepare(position)
        finally:
            timing.prepare_s += timing.now() - begun

    return call


def _one_text_a_row(array: Array) -> Array:
    """Convert text `[rows, 1]` to `[rows]`, because some clients send strings as a column."""
    return array.ravel() if array.dtype == object and array.ndim > 1 and array.size == len(array) else array
