"""Predictor: the synchronous front of one backend.

Nothing here imports torch: a Predictor over an ONNX backend lives without it, and torch tensors are recognised when they come.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nograd.backends import Backend, TorchBackend
from nograd.batching.collate import model_error, plan, run_together
from nograd.caching.answers import Answers
from nograd.cost import CostCurve
from nograd.errors import ConfigError, ItemError, NogradError, SignatureError, UnsupportedError
from nograd.fingerprint import Fingerprint, of_value
from nograd.inputs import by_name, each_item, holds_tensors, is_module, is_tensor, one_row, to_host
from nograd.interrupts import is_interrupt
from nograd.tensors import TEXT, Batch, Signature, TensorSpec, num_rows
from nograd.threads import in_own_thread

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Predictor"]

MAX_BATCH_SIZE = 32


class Predictor:
    """Runs a trained model the way inference should run.

    Eval mode and inference mode while it runs, the module left as it was found, inputs checked and moved, answers in the
    kind they were asked in: tensors for tensors (on the device they came from), arrays for arrays and lists.

    >>> import torch
    >>> predictor = Predictor(torch.nn.Linear(4, 3), sample=torch.zeros(2, 4))
    >>> predictor.predict(torch.zeros(8, 4)).shape
    torch.Size([8, 3])

    Args:
        model: a torch module, or a backend.
        device: `auto` is where the module is, or the first GPU for a module on the CPU; else a torch device. For another
            device a copy of the module is moved.
        preprocess: makes of one item the model's row: an array `[...]`, or arrays by name. `predict` then takes a list of
            items.
        postprocess: makes of one row of the model's answer what the user gets for that item.
        sample: inputs the model can run, as `predict` takes them. With it the model is probed (see `nograd.probe`): inputs are
            checked against what it takes, and rows are batched as far as that is right. Without it, the first input that
            runs tells names, dtypes and ranks, and nothing is batched.
        item: what one item is, for servers; read from `preprocess.item` where that is declared.
        padding: values that fill a shorter row in a batch, by input, such as `{"word_id": 250001, "pad_mask": True}`. They are
            verified with the sample. Default: the probe finds them (see `nograd.probe`).

    Raises:
        ConfigError: a setting is out of its range.
        SignatureError: the model cannot run the sample.
    """

    def __init__(
        self,
        model: nn.Module | Backend,
        *,
        device: str | Any = "auto",
        preprocess: Callable[[Any], Any] | None = None,
        postprocess: Callable[[Any], Any] | None = None,
        sample: Any = None,
        item: TensorSpec | None = None,
        padding: Mapping[str, float] | None = None,
    ) -> None:
        self._preprocess = preprocess
        self._postprocess = postprocess
        self._module: nn.Module | None = None
        self._backend: Backend | None = None
        self._device = device
        self._padding = padding
        self._example: Any = None
        self._has_run = False
        self._fingerprint: tuple[Fingerprint, Fingerprint] | None = None
        self._answers: Answers | None = None
        self.cost: CostCurve | None = None
        """Seconds of a run by its size, where they are known: a bundle brings them, and a server then measures nothing."""

        self.name = ""
        """What it is called, where a bundle says it."""

        self.provenance = ""
        """How it runs and where that comes from, in one line, where a bundle says it."""

        self._local = threading.local()
        self._learning = threading.Lock()
        self.item = item if item is not None else getattr(preprocess, "item", None)
        if isinstance(model, Backend):
            if device != "auto":
                raise ConfigError(f"device is {device!r}; a backend has its own ({model.device}): leave device out")
            if padding:
                raise ConfigError("padding is given with a backend, whose signature has its own; leave padding out")
            self._backend = model
            self._example = sample if preprocess is None or sample is None else _first(sample)
            return
        if not is_module(model):
            raise ConfigError(f"model is {type(model).__name__}; it must be a torch.nn.Module or a nograd Backend")
        self._module = model
        if sample is not None and preprocess is not None:
            self.learn_from([sample] if isinstance(sample, str | bytes) else list(each_item(sample)))
        elif sample is not None:
            self._probe([sample])
            self._example = sample

    # -- what it is

    @property
    def is_probed(self) -> bool:
        """True once it is known how rows may be batched: from a sample, from a backend, or from `learn`."""
        return self._module is None or (self._backend is not None and bool(self._backend.signature.outputs))

    @property
    def backend(self) -> Backend:
        """What runs the batches.

        Raises:
            UnsupportedError: nothing is known of the model yet: no sample was given and nothing was predicted.
        """
        if self._backend is None:
            raise UnsupportedError("nothing is known of the model's inputs yet; give `sample=`, or predict once")
        return self._backend

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
        """The sample's first item; without `preprocess`, its first row as checked arrays; zeros where no sample was given.

        Raises:
            UnsupportedError: with `preprocess`, no sample was given.
        """
        if self._preprocess is not None:
            if self._example is None:
                raise UnsupportedError("no example of an item is known; give `sample=` with `preprocess`")
            return self._example
        if self._example is None:
            return _zeros(self.signature)
        batch = self.check(to_host(self._example))
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
        if self._preprocess is None and holds_tensors(inputs):
            return self._whole(self._forward(inputs))
        parts, finish = self.prepare(inputs)
        return finish(self._answered(parts))

    def predict_proba(self, inputs: Any, *, temperature: float = 1.0) -> Any:
        """Return class probabilities for each row.

        The output is read as logits and normalised with softmax (Goodfellow et al., Deep Learning, 2016, eq. 4.1), shifted by
        its largest value so that nothing overflows. A single logit is read as the log-odds of class 1 of 2. Of several
        outputs, the one named `logits` is read. `postprocess` plays no part.

        Args:
            inputs: as for `predict`.
            temperature: divides the logits; above 1 flattens. No unit.

        Returns:
            Probabilities, float32, `[rows, classes]`; each row sums to 1. A tensor for tensors, else an array.

        Raises:
            ConfigError: `temperature` is not above 0.
            SignatureError: as for `predict`, or the model has no floating output `[rows, classes]` to read as logits.
        """
        if not 0 < temperature < float("inf"):
            raise ConfigError(f"temperature is {temperature}; it must be above 0, finite")
        logits = self._class_logits(inputs)
        if is_tensor(logits):
            logits = logits.double()
            return ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1).float()
        logits = logits.astype(np.float64)
        with np.errstate(over="ignore"):  # a tiny temperature takes all but the largest to minus infinity, which is right
            exponentials = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
        return (exponentials / exponentials.sum(-1, keepdims=True)).astype(np.float32)

    def predict_class(self, inputs: Any) -> Any:
        """Return the most probable class of each row, int64 `[rows]`; arguments and errors as for `predict_proba`."""
        return self._class_logits(inputs).argmax(-1)

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
        if not isinstance(self.backend, TorchBackend):
            raise UnsupportedError(f"backend {self.backend.name!r} has no gradients; use a torch backend such as eager")
        with self.backend.gradients():
            before = getattr(self._local, "gradients", False)
            self._local.gradients = True  # what a cache keeps has none
            try:
                yield
            finally:
                self._local.gradients = before

    # -- for batchers and servers

    def prepare(self, inputs: Any) -> tuple[list[Batch], Callable[[list[Batch]], Any]]:
        """Return checked parts of `inputs`, and the function that makes the answer of the parts' outputs.

        Without `preprocess` the inputs are one part; with it, each item is a part of one row.
        """
        if self._preprocess is None:
            if type(inputs) is np.ndarray and self._backend is not None and len(self._backend.signature.inputs) == 1:
                signature = self._backend.signature  # one array for one input, what batchers see most, needs no search
                return [signature.check({signature.inputs[0].name: inputs})], self._finish_arrays
            tensors = holds_tensors(inputs)
            part = self.check(to_host(inputs) if tensors else inputs)
            return [part], self._finish_tensors if tensors else self._finish_arrays
        lone = isinstance(inputs, str | bytes)
        items = [inputs] if lone else list(each_item(inputs))
        if not items:
            raise SignatureError("the list of items is empty; give at least 1")
        parts = [self.prepare_item(item, index) for index, item in enumerate(items)]
        return parts, partial(self._finish_items, lone=lone)

    def prepare_item(self, item: Any, index: int) -> Batch:
        """Return one item as a checked part of one row.

        Raises:
            ItemError: `preprocess` raised, or what it returned is not the model's row.
        """
        try:
            row = self._preprocess(item) if self._preprocess is not None else item
            return self.check(one_row(row))
        except BaseException as error:
            if is_interrupt(error):
                raise
            raise _item_error(index, error) from error

    def learn(self, inputs: Any) -> None:
        """Probe the model with inputs as `predict` takes them, unless it is probed already. Blocks for some twenty runs.

        Without `preprocess`, the inputs may also be one row without the batch dimension. Dimension 0 counts as the row if the
        model runs and its rows are then independent; else the inputs are one row if that is so with the dimension added.

        Raises:
            ItemError: `preprocess` raised on an item.
            SignatureError: the model cannot run the inputs.
        """
        with self._learning:
            if self.is_probed:
                return
            if self._preprocess is not None:
                self.learn_from([inputs] if isinstance(inputs, str | bytes) else list(each_item(inputs)))
                return
            from nograd.backends.first_inputs import backend_from_inputs

            module = cast("nn.Module", self._module)
            found = in_own_thread(partial(backend_from_inputs, module, inputs, device=self._device))
            self._backend, self._example = found.result()

    def learn_from(self, items: Sequence[Any]) -> None:
        """Probe the model with items, or with rows where there is no `preprocess`, unless a sample has taught it already.

        Raises:
            ItemError: `preprocess` raised on an item.
            SignatureError: the model cannot run the items.
        """
        if self._module is None or (self._backend is not None and self._backend.signature.outputs):
            return
        rows = []
        for index, item in enumerate(items):
            try:
                rows.append(one_row(item if self._preprocess is None else self._preprocess(item)))
            except BaseException as error:
                if is_interrupt(error):
                    raise
                raise _item_error(index, error) from error
        self._probe(rows)
        self._example = rows[0] if self._preprocess is None else items[0]

    def answers(self, outputs: Batch, *, as_tensors: bool = False) -> Iterator[Any]:
        """Yield the answer for each row of outputs, postprocessed."""
        restore, postprocess = self.backend.restore, self._postprocess
        leaves = _as_tensors(outputs) if as_tensors else outputs
        for row in range(num_rows(outputs)):
            answer = restore({name: leaf[row] for name, leaf in leaves.items()})
            yield answer if postprocess is None else _postprocessed(answer, postprocess)

    def check(self, inputs: Any) -> Batch:
        """Return the inputs as a checked Batch; the first ever teaches names, dtypes and ranks where no sample was given."""
        self._learn(inputs)
        return self.signature.check(by_name(inputs, self.signature))

    def run_parts(self, parts: Sequence[Batch]) -> list[Batch]:
        """Run checked parts, those of like length together; return the outputs of each."""
        if len(parts) == 1:
            return [self.run(parts[0])]
        outputs: dict[int, Batch] = {}
        for group in plan(parts, self.signature, MAX_BATCH_SIZE):
            chosen = [parts[position] for position in group]
            outputs.update(zip(group, run_together(chosen, self.run, self.signature), strict=True))
        return [outputs[position] for position in range(len(parts))]

    def run(self, batch: Batch) -> Batch:
        """Run one checked batch, blocking."""
        if self._has_run and self._backend is not None:
            return self._backend.run(batch)
        with self._trial():
            return self.backend.run(batch)

    def close(self) -> None:
        """Give back what the backend holds."""
        if self._backend is not None:
            self._backend.close()
        if self._answers is not None:
            self._answers.close()

    # -- inside

    def _probe(self, samples: Sequence[Any]) -> None:
        from nograd.backends.eager import eager_backend

        module = cast("nn.Module", self._module)
        self._backend = in_own_thread(
            partial(eager_backend, module, samples, device=self._device, padding=self._padding)
        ).result()

    def _learn(self, inputs: Any) -> None:
        """Take names, dtypes and ranks from the first input, where nothing is known."""
        if self._backend is None:
            from nograd.backends.eager import unprobed_backend

            self._backend = unprobed_backend(cast("nn.Module", self._module), inputs, device=self._device)

    @contextmanager
    def _trial(self) -> Iterator[None]:
        """Forget what the first input taught, where the model then fails on it."""
        try:
            yield
        except NogradError:
            taught = self._backend
            if not self._has_run and self._module is not None and taught is not None and not taught.signature.outputs:
                self._backend = None
            raise
        self._has_run = True

    def _forward(self, inputs: Any) -> Mapping[str, Tensor]:
        """Run torch tensors; return the outputs on the device that the inputs came from."""
        from nograd.module import check_tensors

        self._learn(inputs)
        named = check_tensors(by_name(inputs, self.signature), self.signature)
        origin = next(iter(named.values())).device
        if isinstance(self.backend, TorchBackend) and (self._answers is None or getattr(self._local, "gradients", False)):
            with self._trial():
                outputs = self.backend.forward(named)
        else:
            outputs = _as_tensors(self._answered([self.check(to_host(named))])[0])
        return {name: tensor.to(origin) for name, tensor in outputs.items()}

    def _class_logits(self, inputs: Any) -> Any:
        """Return floating `[rows, classes]`, two classes at least: a tensor for tensors, else an array."""
        if self._preprocess is None and holds_tensors(inputs):
            import torch

            scores = _logits(self._forward(inputs))
            return scores if scores.shape[1] > 1 else torch.hstack([torch.zeros_like(scores), scores])
        parts, _ = self.prepare(inputs)
        found = [_logits(outputs) for outputs in self._answered(parts)]
        if len({logits.shape[1] for logits in found}) > 1:
            raise SignatureError("the items' outputs differ in length; class scores are floating [rows, classes]")
        logits = np.concatenate(found)
        return logits if logits.shape[1] > 1 else np.hstack([np.zeros_like(logits), logits])

    def _answered(self, parts: Sequence[Batch]) -> list[Batch]:
        """Return the outputs of each part: run, or known."""
        if self._answers is None:
            return self.run_parts(parts)
        return list(self._answers.of(parts, self.run_parts, self.signature))

    def _whole(self, outputs: Mapping[str, Any]) -> Any:
        return self.backend.restore(outputs) if self._postprocess is None else list(self.answers(outputs))

    def _finish_arrays(self, outputs: list[Batch]) -> Any:
        if self._postprocess is None and self._backend is not None:  # done for every request
            return self._backend.restore(outputs[0])
        return self._whole(outputs[0])

    def _finish_tensors(self, outputs: list[Batch]) -> Any:
        return self._whole(_as_tensors(outputs[0]))

    def _finish_items(self, outputs: list[Batch], *, lone: bool) -> Any:
        answers = [answer for output in outputs for answer in self.answers(output)]
        return answers[0] if lone else answers


def _postprocessed(answer: Any, postprocess: Callable[[Any], Any]) -> Any:
    """Return what `postprocess` makes of a row; what would end the program or its event loop becomes a ModelError."""
    try:
        return postprocess(answer)
    except Exception:
        raise
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise model_error("postprocess", error) from error


def _item_error(index: int, error: BaseException) -> ItemError:
    what = str(error) if isinstance(error, NogradError) else f"preprocess raised {type(error).__name__}: {error}"
    return ItemError(f"item {index}: {what}", index)


def _as_tensors(outputs: Batch) -> dict[str, Tensor]:
    import torch

    return {name: torch.from_numpy(array) for name, array in outputs.items()}


def _zeros(signature: Signature) -> Batch:
    smallest = {
        spec.name: tuple(size if isinstance(size, int) else signature.size_range(size)[0] for size in spec.shape)
        for spec in signature.inputs
    }
    return signature.check({spec.name: _filler(spec, (1, *smallest[spec.name])) for spec in signature.inputs})


def _filler(spec: TensorSpec, shape: tuple[int, ...]) -> Any:
    return np.full(shape, "", dtype=object) if spec.dtype == TEXT else np.full(shape, spec.default or 0, dtype=spec.dtype)


def _first(sample: Any) -> Any:
    """Return the first item of a sample; one string is one item."""
    return sample if isinstance(sample, str | bytes) else next(each_item(sample))


def _logits(outputs: Mapping[str, Any]) -> Any:
    found = outputs.get("logits", next(iter(outputs.values())) if len(outputs) == 1 else None)
    if found is None:
        raise SignatureError(
            f"the model has the outputs {', '.join(map(repr, outputs))}; one must be named 'logits' to be read as class scores"
        )
    if found.ndim != 2 or "float" not in str(found.dtype):
        dtype = str(found.dtype).removeprefix("torch.")
        raise SignatureError(f"the model's output is {dtype} {list(found.shape)}; class scores are floating [rows, classes]")
    return found
