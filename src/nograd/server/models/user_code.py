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
    """Turns a request's inputs into the model's parts, and the model's outputs into the request's outputs.

    Args:
        predictor: has the functions; either may be missing.
        inputs: what clients send.
        threads: call the functions.
    """

    def __init__(self, predictor: Predictor, inputs: Signature, threads: CodeThreads) -> None:
        self._predictor = predictor
        self._inputs = inputs
        self._threads = threads
        self._fields: AnswerFields | None = None
        """Of the answers of `postprocess`; its first answer fixes them, at the start."""

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
        """Return the model's parts for inputs, prepared in the calling thread: for the start."""
        if not self.has_preprocess:
            return [self._inputs.check(inputs)]
        return [self._predictor.prepare_item(item, index) for index, item in enumerate(self.items(inputs))]

    async def prepare(self, items: Array, timeout_s: float, timing: Timing | None) -> list[Batch]:
        """Return the model's part for each item, prepared in a thread.

        Raises:
            ItemError: `preprocess` raised on an item.
            NogradError: as `CodeThreads.run`.
        """
        return await self.prepare_by(
            lambda index: self._predictor.prepare_item(items[index], index), range(len(items)), timeout_s, timing
        )

    async def prepare_by(
        self, prepare: Callable[[int], Result], positions: Sequence[int], timeout_s: float, timing: Timing | None
    ) -> list[Result]:
        """Return what a function that calls `preprocess` returns for each position, called in a thread; errors as `prepare`."""
        call = prepare if timing is None else _timed(prepare, timing)
        return await self._threads.run_each(call, positions, "preprocess", timeout_s=timeout_s)

    def outputs(self, parts: Sequence[Batch]) -> Mapping[str, Array]:
        """Return the outputs of a request's parts as one; postprocessed, if there is a `postprocess`.

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
        except BaseException as error:  # postprocess is the user's code, and so are the objects that it returns
            if is_interrupt(error):
                raise
            raise model_error("postprocess", error) from error


def item_of(name: str, predictor: Predictor) -> TensorSpec:
    """Return what one item is: as declared, or text if the sample's items are strings.

    Raises:
        ConfigError: neither is known.
    """
    if predictor.item is not None:
        return predictor.item
    if isinstance(predictor.example, str):
        return TensorSpec("text", TEXT)
    raise ConfigError(
        f"model {name!r} has a preprocess, and nothing says what one item is; "
        "give the Predictor `item=nograd.TensorSpec(name, dtype, shape)`, with dtype 'bytes' for strings"
    )


def example_of(predictor: Predictor, specs: Sequence[TensorSpec]) -> Mapping[str, Array]:
    """Return one row of real input by name, as a client would send it."""
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
    """Take text `[rows, 1]` as `[rows]`: some clients send strings in a column."""
    return array.ravel() if array.dtype == object and array.ndim > 1 and array.size == len(array) else array
