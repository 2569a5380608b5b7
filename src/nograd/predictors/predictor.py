"""Predictor: the synchronous front of one backend.

Nothing here imports torch: a Predictor over an ONNX backend lives without it, and torch tensors are recognised when they come.
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
"""Items that are probed with if no sample was given."""


class Predictor:
    """Runs a trained model the way inference should run.

    The model runs in eval mode and inference mode, and the module is left as it was found. Inputs are checked and moved to the
    model's device. Tensors are answered with tensors on the device that they came from, arrays and lists with arrays.

    >>> import torch
    >>> predictor = Predictor(torch.nn.Linear(4, 3), "cpu")
    >>> predictor.predict(torch.rand(8, 4)).shape
    torch.Size([8, 3])

    Args:
        model: a torch module, or a backend.
        device: a torch device or its name; `auto` is where the module is, or the first GPU for a module on the CPU. For another
            device a copy of the module is moved.
        preprocess: returns the model's row for one item: an array `[...]`, or arrays by name. `predict` then takes a list of
            items.
        postprocess: takes one row of the model's answer, and returns what `predict` returns for it.
        sample: inputs that the model can run, as `predict` takes them. With it the model is probed at once (see
            `nograd.probe`), and inputs that are unlike it are refused. Without it, calls run as they come, and the first input
            is probed when rows are to be batched: by a batcher, a cache, a server, or `preprocess`.
        item: what one item is, for servers; read from `preprocess.item` if that is declared.
        padding: values that fill a shorter row in a batch, by input, such as `{"word_id": 250001, "pad_mask": True}`. They are
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
        """Seconds of a run by its size, if they are known: a bundle brings them, and a server then measures nothing."""

        self.name = ""
        """Its name, if a bundle has one."""

        self.provenance = ""
        """How it runs and where that was decided, in one line, if a bundle says it."""

        self.item = item if item is not None else getattr(preprocess, "item", None)
        if isinstance(model, Backend):
            if device != "auto":
                raise ConfigError(f"device is {str(device)!r}; a backend has its own ({model.device}): leave device out")
            if padding:
                raise ConfigError("padding is given with a backend, whose signature has its own; leave padding out")
            self._example = sample if preprocess is None or sample is None else first_item(sample)
        elif sample is not None and preprocess is not None:
            self.learn_from([sample] if isinstance(sample, str | bytes) else list(each_item(sample)))
        elif sample is not None:
            self._calls.settle([sample])
            self._example = sample

    # -- what it is

    @property
    def is_probed(self) -> bool:
        """True once it is known how rows may be batched: from a sample, from a backend, or from `learn`."""
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
        """What another Predictor of the same model can be made of: both then know what either learns."""
        calls = self._calls
        return calls.learner if calls.learner is not None and not calls.is_strict else self.backend

    @property
    def device(self) -> str:
        """Where the model runs: `cpu`, `cuda:0`, ..."""
        calls = self._calls
        return str(calls.learner.device) if calls.backend is None and calls.learner is not None else self.backend.device

    @property
    def preprocess(self) -> Callable[[Any], Any] | None:
        """What makes of one item the model's row."""
        return self._preprocess

    @property
    def postprocess(self) -> Callable[[Any], Any] | None:
        """What makes of one row of the model's answer what the user gets."""
        return self._postprocess

    @property
    def has_preprocess(self) -> bool:
        """True where `predict` takes items instead of the model's own inputs."""
        return self._preprocess is not None

    @property
    def has_postprocess(self) -> bool:
        """True where answers are what `postprocess` makes of the model's rows."""
        return self._postprocess is not None

    @property
    def example(self) -> Any:
        """The sample's first item; without `preprocess`, its first row as checked arrays. Without a sample: the first input's
        first row, or zeros.

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
        """The example as one checked row of the model's own inputs."""
        part: Batch = self.prepare_item(self.example, 0) if self.has_preprocess else self.example
        return part

    @property
    def signature(self) -> Signature:
        """What the backend takes and gives. `item` says what users of `preprocess` send."""
        return self.backend.signature

    @property
    def lanes(self) -> int:
        """Calls to `run` that may go on side by side."""
        return self.backend.lanes

    @property
    def has_cache(self) -> bool:
        """True if answers may come from a cache."""
        return self._calls.answers is not None

    def fingerprint(self) -> Fingerprint:
        """Return a digest of all that answers depend on beside the inputs: the backend, `preprocess` and `postprocess`.

        It changes when the weights of a torch module do, also in place. Attributes of the module that are no tensors, and
        what `preprocess` and `postprocess` close over, are read once.

        Raises:
            UnsupportedError: nothing is known of the model yet.
        """
        own = self.backend.fingerprint()
        if self._fingerprint is None or self._fingerprint[0] != own:
            around = of_value(own.text, self._preprocess, self._postprocess)
            self._fingerprint = own, Fingerprint(around.text, own.private_because or around.private_because)
        return self._fingerprint[1]

    # -- predicting

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Return `predict` of inputs that are given as the module takes them: in order, or by name."""
        if named and inputs:
            raise SignatureError("inputs were given in order and by name; give all in order, or all by name")
        return self.predict(named or (inputs[0] if len(inputs) == 1 else inputs))

    def predict(self, inputs: Any) -> Any:
        """Return the model's answer, in the structure that the model itself returns.

        Args:
            inputs: `[rows, ...]`: a tensor, an array, nested lists; a tuple of them in the order of `forward`; or a dict by
                name. With `preprocess`: a list of items, or one `str`.

        Returns:
            Tensors for tensors, arrays for arrays and lists. With `preprocess`: a list with one answer per item; one answer
            for one `str`. With `postprocess`: a list with one answer per row.

        Raises:
            SignatureError: a name, dtype, shape or number of rows is not the model's.
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

        The output is read as logits and normalised with softmax. A single logit is read as the log-odds of class 1 of 2. Rows
        that are probabilities already are returned as they are, with a warning. A transformers model with the `problem_type`
        `multi_label_classification` gets a sigmoid for each label. `postprocess` plays no part.

        Args:
            inputs: as for `predict`.
            temperature: divides the logits; above 1 flattens. No unit.
            output: the output to read, by name; None: the only one, or the one named `logits`.

        Returns:
            Probabilities, float32, `[rows, classes]`; each row sums to 1, except for several labels. A tensor for tensors, else
            an array.

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

        Of a multi-label model: 1 for each label that is more probable than not, else 0; int64 `[rows, labels]`.
        """
        return classes_of(*self._scores(inputs, output))

    def warm_up(self) -> None:
        """Run the model once, on the sample's first row, so that the first user does not pay for what happens only once.

        Raises:
            UnsupportedError: no sample was given and nothing was predicted yet.
        """
        self.run(self.example_part)

    @contextmanager
    def gradients(self) -> Iterator[None]:
        """Within this context, `predict` on tensors records gradients, still in eval mode: for explanations.

        Raises:
            UnsupportedError: the backend is not torch's, or nothing is known of the model yet.
        """
        with self._calls.gradients():
            yield

    # -- for batchers and servers

    def prepare(self, inputs: Any) -> tuple[list[Batch], Callable[[list[Batch]], Any]]:
        """Return checked parts of `inputs`, and the function that makes the answer of the parts' outputs.

        Without `preprocess` the inputs are one part; with it, each item is a part of one row.
        """
        if self._preprocess is None:
            backend = self._calls.backend
            if type(inputs) is np.ndarray and backend is not None and len(backend.signature.inputs) == 1:
                signature = backend.signature  # one array for one input, what batchers see most, needs no search
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
            ItemError: `preprocess` raised, or what it returned is not the model's row.
        """
        try:
            return self.check(row_of(item, self._preprocess))
        except BaseException as error:
            if is_interrupt(error):
                raise
            raise item_error(index, error) from error

    def learn(self, inputs: Any) -> None:
        """Probe the model with inputs as `predict` takes them, unless it is probed already. Blocks for some twenty runs.

        Without `preprocess`, the inputs may also be one row without the batch dimension. Dimension 0 counts as the row if the
        model runs and its rows are then independent; else the inputs are one row if that is so with the dimension added. If the
        probe fails and the model runs, calls run one by one; `signature.reason` says why.

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
        """Return the model's outputs by name, `[rows, ...]`, as `predict` does before it restores their structure."""
        return self._calls.outputs(inputs)[1]

    def learn_from(self, items: Sequence[Any], *, or_run_singly: bool = False) -> None:
        """Probe the model with items, or with rows without a `preprocess`, unless a sample was probed already.

        Args:
            items: what `preprocess` takes, or rows without dimension 0.
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
        """Return the inputs as a checked Batch; without a sample, the first inputs are probed."""
        if self._calls.backend is None:
            self.learn(inputs)
        return self.signature.check(by_name(inputs, self.signature))

    def run_parts(self, parts: Sequence[Batch]) -> list[Batch]:
        """Run checked parts, those of like length together; return the outputs of each."""
        return self._calls.run_parts(parts)

    def run(self, batch: Batch) -> Batch:
        """Run one checked batch, blocking."""
        return self.backend.run(batch)

    def close(self) -> None:
        """Release what the backend holds."""
        self._calls.close()

    # -- inside

    def _learn_rows(self, items: Sequence[Any]) -> None:
        """Learn from the first items; one that cannot be prepared is reported when its turn comes."""
        rows = rows_before_a_fault(items, self._preprocess)
        if rows:
            self._calls.settle_if_possible(rows)
            self._example = items[0]

    def _scores(self, inputs: Any, output: str | None) -> tuple[Any, str]:
        """Return floating `[rows, classes]`, a tensor for tensors, else an array; and the model's problem type."""
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
