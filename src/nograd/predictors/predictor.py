"""Predictor: the synchronous interface to one backend.

This module does not import torch: a Predictor over an ONNX backend works without it, and torch tensors are recognised as
inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nograd.backends import Backend
from nograd.core.cost import CostCurve
from nograd.core.inputs import by_name, each_item, holds_tensors, to_host
from nograd.core.scores import choose_output, classes_of, join_scores, probabilities_of
from nograd.core.tensors import Batch, Signature, TensorSpec
from nograd.errors import ConfigError, SignatureError, UnsupportedError
from nograd.predictors.calls import Calls
from nograd.predictors.calls import as_tensors as to_tensors
from nograd.predictors.items import (
    answers_of_rows,
    first_item,
    item_error,
    row_of,
    rows_before_a_fault,
    rows_of,
    whole_answer,
    zeros_of,
)
from nograd.runtime.fingerprint import Fingerprint, of_value
from nograd.runtime.interrupts import is_interrupt

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nograd.backends.learning import Learner

__all__ = ["Predictor"]

SAMPLE_ITEMS = 2
"""Number of items to probe with if no sample was given."""


class Predictor:
    """Runs inference with a trained model.

    The model runs in eval mode and inference mode; the module's own mode is restored. Inputs are checked and moved to the
    model's device. The answer to tensors is tensors on the same device; the answer to arrays and lists is arrays.

    >>> import torch
    >>> predictor = Predictor(torch.nn.Linear(4, 3), "cpu")
    >>> predictor.predict(torch.rand(8, 4)).shape
    torch.Size([8, 3])

    Args:
        model: a torch module, or a backend.
        device: a torch device or its name, or `auto`: the module's device, or the first GPU for a module on the CPU. For
            another device a copy of the module is moved.
        preprocess: converts one item to the model's row: an array `[...]`, or arrays by name. `predict` then takes a list of
            items.
        postprocess: converts one row of the model's answer to the result that `predict` returns for it.
        sample: inputs that the model can run, as for `predict`. With a sample the model is probed immediately (see
            `nograd.probe`), and inputs of other kinds raise an error. Without one, each call runs separately; the first input
            is probed once rows must be batched: by a batcher, a cache, a server, or `preprocess`.
        item: description of one item, for servers; default: `preprocess.item`, if declared.
        padding: values that pad a shorter row in a batch, by input, such as `{"word_id": 250001, "pad_mask": True}`. They are
            verified with the sample. Default: the probe finds them (see `nograd.probe`).

    Raises:
        ConfigError: `model` is not a model, a setting is out of its range, or torch has no such device here.
        SignatureError: the model cannot run the sample.
    """

    def __init__(
        self,
        model: nn.Module | Backend | Learner,
        device: str | torch.device = "auto",
        *,
        preprocess: Callable[[Any], Any] | None = None,
        postprocess: Callable[[Any], Any] | None = None,
        sample: Any = None,
        item: TensorSpec | None = None,
        padding: Mapping[str, float] | None = None,
    ) -> None:
        self._preprocess = preprocess
        self._postprocess = postprocess
        self._calls = Calls(model, device, padding)
        self._calls.is_strict = sample is not None
        self._example: Any = None
        self._fingerprint: tuple[Fingerprint, Fingerprint] | None = None
        self.cost: CostCurve | None = None
        """Seconds of a run by its size, if known. Bundles contain a curve; without one, a server measures it."""

        self.name = ""
        """Name of the model, if a bundle contains one."""

        self.provenance = ""
        """How the model runs and where that was decided, in one line, if a bundle contains it."""

        self.item = item if item is not None else getattr(preprocess, "item", None)
        if isinstance(model, Backend):
            if device != "auto":
                raise ConfigError(f"device is {str(device)!r}; a backend has its own ({model.device}): omit device")
            if padding:
                raise ConfigError("padding is given with a backend, whose signature has its own; omit padding")
            self._example = sample if preprocess is None or sample is None else first_item(sample)
        elif sample is not None and preprocess is not None:
            self.learn_from([sample] if isinstance(sample, str | bytes) else list(each_item(sample)))
        elif sample is not None:
            self._calls.settle([sample])
            self._example = sample

    # -- properties

    @property
    def is_probed(self) -> bool:
        """True if the batching of rows is known: from a sample, from a backend, or from `learn`."""
        return self._calls.backend is not None

    @property
    def backend(self) -> Backend:
        """The backend that runs batches. Without a sample, its first use probes the model with the first input that ran.

        Raises:
            UnsupportedError: no sample was given, and no call has run yet.
        """
        return self._calls.backend or self._calls.known()

    @property
    def source(self) -> Backend | Learner:
        """Argument for another Predictor of the same model; the two share the results of probing."""
        calls = self._calls
        return calls.learner if calls.learner is not None and not calls.is_strict else self.backend

    @property
    def device(self) -> str:
        """Device on which the model runs: `cpu`, `cuda:0`, ..."""
        calls = self._calls
        return str(calls.learner.device) if calls.backend is None and calls.learner is not None else self.backend.device

    @property
    def preprocess(self) -> Callable[[Any], Any] | None:
        """Function that converts one item to the model's row; None if there is none."""
        return self._preprocess

    @property
    def postprocess(self) -> Callable[[Any], Any] | None:
        """Function that converts one row of the model's answer to the result; None if there is none."""
        return self._postprocess

    @property
    def has_preprocess(self) -> bool:
        """True if `predict` takes items instead of the model's inputs."""
        return self._preprocess is not None

    @property
    def has_postprocess(self) -> bool:
        """True if `postprocess` converts the model's answers."""
        return self._postprocess is not None

    @property
    def example(self) -> Any:
        """The sample's first item; without `preprocess`, its first row as checked arrays.

        Without a sample: the first row of the first input, or zeros.

        Raises:
            UnsupportedError: with `preprocess`, no sample was given.
        """
        if self._preprocess is not None:
            if self._example is None:
                raise UnsupportedError("no example of an item is known; give `sample=` with `preprocess`")
            return self._example
        learner = self._calls.learner
        example = learner.first if self._example is None and learner is not None else self._example
        if example is None:
            return zeros_of(self.signature)
        batch = self.check(to_host(example))
        return {name: array[:1] for name, array in batch.items()}

    @property
    def example_part(self) -> Batch:
        """The example as one checked row of the model's inputs."""
        part: Batch = self.prepare_item(self.example, 0) if self.has_preprocess else self.example
        return part

    @property
    def signature(self) -> Signature:
        """The backend's signature; its `item` describes the items of `preprocess`."""
        return self.backend.signature

    @property
    def lanes(self) -> int:
        """Number of calls to `run` that may run at the same time."""
        return self.backend.lanes

    @property
    def has_cache(self) -> bool:
        """True if answers may come from a cache."""
        return self._calls.answers is not None

    def fingerprint(self) -> Fingerprint:
        """Return a digest of everything besides the inputs that answers depend on: backend, `preprocess` and `postprocess`.

        It changes with the weights of a torch module, also after changes in place. Attributes of the module that are not
        tensors, and variables that `preprocess` and `postprocess` close over, are read once.

        Raises:
            UnsupportedError: the model's inputs are not known yet.
        """
        own = self.backend.fingerprint()
        if self._fingerprint is None or self._fingerprint[0] != own:
            around = of_value(own.text, self._preprocess, self._postprocess)
            self._fingerprint = own, Fingerprint(around.text, own.private_because or around.private_because)
        return self._fingerprint[1]

    # -- predicting

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Return `predict` of inputs in the form of the module's arguments: in order, or by name."""
        if named and inputs:
            raise SignatureError("inputs were given in order and by name; give all in order, or all by name")
        return self.predict(named or (inputs[0] if len(inputs) == 1 else inputs))

    def predict(self, inputs: Any) -> Any:
        """Return the model's answer, in the model's own structure.

        Args:
            inputs: `[rows, ...]`: a tensor, an array, nested lists; a tuple of them in the order of `forward`; or a dict by
                name. With `preprocess`: a list of items, or one `str`.

        Returns:
            Tensors for tensors, arrays for arrays and lists. With `preprocess`: a list with one answer per item; one answer
            for one `str`. With `postprocess`: a list with one answer per row.

        Raises:
            SignatureError: a name, dtype, shape or number of rows does not fit the model.
            ItemError: `preprocess` raised on an item.
            ModelError: the model raised.
        """
        if self._preprocess is not None:
            parts, finish = self.prepare(inputs)
            return finish(self._calls.answered(parts))
        direct = self._calls.direct
        if direct is not None and self._postprocess is None:
            answer = direct.answer(inputs)
            if answer is not None:
                return answer
        backend, outputs = self._calls.outputs(inputs)
        return whole_answer(backend, outputs, self._postprocess)

    def predict_proba(self, inputs: Any, *, temperature: float = 1.0, output: str | None = None) -> Any:
        """Return class probabilities for each row.

        The output is interpreted as logits and normalised with softmax. A single logit is interpreted as the log-odds of class
        1 of 2. Rows that are already probabilities are returned unchanged, with a warning. For a transformers model with the
        `problem_type` `multi_label_classification`, a sigmoid is applied to each label. `postprocess` is not applied.

        Args:
            inputs: as for `predict`.
            temperature: divides the logits; above 1 flattens. No unit.
            output: name of the output; None: the only one, or the one named `logits`.

        Returns:
            Probabilities, float32, `[rows, classes]`; each row sums to 1, except for multi-label models. A tensor for tensors,
            otherwise an array.

        Raises:
            ConfigError: `temperature` is not above 0, or there is no such output.
            SignatureError: as for `predict`; or the model has several outputs and none was chosen, or the output is not
                floating `[rows, classes]`.
            UnsupportedError: the model's `problem_type` is `regression`.
        """
        if not 0 < temperature < float("inf"):
            raise ConfigError(f"temperature is {temperature}; it must be above 0, finite")
        scores, problem = self._scores(inputs, output)
        return probabilities_of(scores, problem, temperature)

    def predict_class(self, inputs: Any, *, output: str | None = None) -> Any:
        """Return the most probable class of each row, int64 `[rows]`; arguments and errors as for `predict_proba`.

        For a multi-label model: 1 for each label with a probability above 0.5, otherwise 0; int64 `[rows, labels]`.
        """
        return classes_of(*self._scores(inputs, output))

    def warm_up(self) -> None:
        """Run the model once with the sample's first row, so that the first request does not pay for one-time work.

        Raises:
            UnsupportedError: no sample was given, and `predict` was not called yet.
        """
        self.run(self.example_part)

    @contextmanager
    def gradients(self) -> Iterator[None]:
        """Return a context in which `predict` on tensors records gradients, still in eval mode: for explanations.

        Raises:
            UnsupportedError: the backend does not use torch, or the model's inputs are not known yet.
        """
        with self._calls.gradients():
            yield

    # -- for batchers and servers

    def prepare(self, inputs: Any) -> tuple[list[Batch], Callable[[list[Batch]], Any]]:
        """Return checked parts of `inputs`, and the function that converts the parts' outputs to the answer.

        Without `preprocess` the inputs are one part; with it, each item is a part of one row.
        """
        if self._preprocess is None:
            backend = self._calls.backend
            if type(inputs) is np.ndarray and backend is not None and len(backend.signature.inputs) == 1:
                signature = backend.signature  # fast path for batchers' most frequent case: one array for one input
                return [signature.check({signature.inputs[0].name: inputs})], self._finish_arrays
            tensors = holds_tensors(inputs)
            part = self.check(to_host(inputs) if tensors else inputs)
            return [part], self._finish_tensors if tensors else self._finish_arrays
        is_single = isinstance(inputs, str | bytes)
        items = [inputs] if is_single else list(each_item(inputs))
        if not items:
            raise SignatureError("the list of items is empty; give at least 1")
        if self._calls.backend is None:
            self._learn_rows(items[:SAMPLE_ITEMS])
        parts = [self.prepare_item(item, index) for index, item in enumerate(items)]
        return parts, partial(self._finish_items, is_single=is_single)

    def prepare_item(self, item: Any, index: int) -> Batch:
        """Return one item as a checked part of one row.

        Raises:
            ItemError: `preprocess` raised, or it returned a row that does not fit the model.
        """
        try:
            return self.check(row_of(item, self._preprocess))
        except BaseException as error:
            if is_interrupt(error):
                raise
            raise item_error(index, error) from error

    def learn(self, inputs: Any) -> None:
        """Probe the model with inputs as for `predict`, unless it is probed already. Blocks for about twenty runs.

        Without `preprocess`, the inputs may also be one row without the batch dimension. Dimension 0 counts as the row if the
        model runs and its rows are then independent. Otherwise the inputs are one row if both hold with the dimension added.
        If the probe fails and the model runs, calls run one by one; `signature.reason` gives the cause.

        Raises:
            ItemError: `preprocess` raised on an item.
            SignatureError: the model cannot run the inputs.
        """
        if self.is_probed:
            return
        if self._preprocess is not None:
            self.learn_from([inputs] if isinstance(inputs, str | bytes) else list(each_item(inputs)))
        else:
            self._calls.learn(inputs)

    def outputs(self, inputs: Any) -> Mapping[str, Any]:
        """Return the model's outputs by name, `[rows, ...]`, without restoring their structure."""
        return self._calls.outputs(inputs)[1]

    def learn_from(self, items: Sequence[Any], *, or_run_singly: bool = False) -> None:
        """Probe the model with items (without `preprocess`: rows), unless it is probed already.

        Args:
            items: items for `preprocess`, or rows without dimension 0.
            or_run_singly: if the probe fails and the model runs the first item, calls run one by one.

        Raises:
            ItemError: `preprocess` raised on an item.
            SignatureError: the model cannot run the items.
        """
        calls = self._calls
        if calls.learner is None or (calls.backend is not None and calls.backend.signature.outputs):
            return
        rows = rows_of(items, self._preprocess)
        if or_run_singly:
            calls.settle_if_possible(rows)
        else:
            calls.settle(rows)
        self._example = rows[0] if self._preprocess is None else items[0]

    def answers(self, outputs: Batch, *, as_tensors: bool = False) -> Iterator[Any]:
        """Return an iterator over the answers of the rows of outputs, postprocessed."""
        return self.row_answers(to_tensors(outputs) if as_tensors else outputs)

    def row_answers(self, leaves: Mapping[str, Any]) -> Iterator[Any]:
        """Return an iterator over the answers of the rows of outputs by name, tensors or arrays, postprocessed."""
        return answers_of_rows(self.backend, leaves, self._postprocess)

    def check(self, inputs: Any) -> Batch:
        """Return the inputs as a checked Batch. Without a sample, the first inputs are used for probing."""
        if self._calls.backend is None:
            self.learn(inputs)
        return self.signature.check(by_name(inputs, self.signature))

    def run_parts(self, parts: Sequence[Batch]) -> list[Batch]:
        """Run checked parts, grouped by similar length; return the outputs of each."""
        return self._calls.run_parts(parts)

    def run(self, batch: Batch) -> Batch:
        """Run one checked batch; blocks."""
        return self.backend.run(batch)

    def close(self) -> None:
        """Release the resources of the backend."""
        self._calls.close()

    # -- internals

    def _learn_rows(self, items: Sequence[Any]) -> None:
        """Probe with the first items. An item that cannot be prepared is reported when its turn comes."""
        rows = rows_before_a_fault(items, self._preprocess)
        if rows:
            self._calls.settle_if_possible(rows)
            self._example = items[0]

    def _scores(self, inputs: Any, output: str | None) -> tuple[Any, str]:
        """Return floating `[rows, classes]` (a tensor for tensors, otherwise an array), and the model's problem type."""
        if self._preprocess is None:
            return self._calls.scores(inputs, output)
        parts, _ = self.prepare(inputs)
        problem = self.backend.problem_type
        return join_scores([choose_output(outputs, output, problem) for outputs in self._calls.answered(parts)]), problem

    def _finish_arrays(self, outputs: list[Batch]) -> Any:
        if self._postprocess is None and self._calls.backend is not None:  # done for every request
            return self._calls.backend.restore(outputs[0])
        return whole_answer(self.backend, outputs[0], self._postprocess)

    def _finish_tensors(self, outputs: list[Batch]) -> Any:
        return whole_answer(self.backend, to_tensors(outputs[0]), self._postprocess)

    def _finish_items(self, outputs: list[Batch], *, is_single: bool) -> Any:
        answers = [answer for output in outputs for answer in self.answers(output)]
        return answers[0] if is_single else answers
