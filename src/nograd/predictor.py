"""Predictor and BatchPredictor: the synchronous fronts of one backend.

Nothing here imports torch: a Predictor over an ONNX backend lives without it, and torch tensors are recognised when they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nograd.backends import Backend, TorchBackend
from nograd.batching.collate import plan, run_together
from nograd.errors import ConfigError, ItemError, NogradError, SignatureError, UnsupportedError
from nograd.inputs import as_items, by_name, holds_tensors, is_module, one_row, to_host
from nograd.tensors import Array, Batch, Signature, TensorSpec, num_rows
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
        preprocess: makes of one item the model's row: an array `[...]`, or arrays by name. `predict` then takes a list of items.
        postprocess: makes of one row of the model's answer what the user gets for that item.
        sample: inputs the model can run, as `predict` takes them. With it the model is probed (see `nograd.probe`): inputs are
            checked against what it takes, and rows are batched as far as that is right. Without it, the first input tells
            names, dtypes and ranks, and nothing is batched.
        item: what one item is, for servers; read from `preprocess.item` where that is declared.

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
    ) -> None:
        self._preprocess = preprocess
        self._postprocess = postprocess
        self._module: nn.Module | None = None
        self._backend: Backend | None = None
        self._device = device
        self._example: Any = sample
        self.item = item if item is not None else getattr(preprocess, "item", None)
        if isinstance(model, Backend):
            if device != "auto":
                raise ConfigError(f"device is {device!r}; a backend has its own ({model.device}): leave device out")
            self._backend = model
            return
        if not is_module(model):
            raise ConfigError(f"model is {type(model).__name__}; it must be a torch.nn.Module or a nograd Backend")
        self._module = model
        if sample is not None:
            self._learn(sample, probed=True)

    # -- what it is

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
    def has_preprocess(self) -> bool:
        """True where `predict` takes items instead of the model's own inputs."""
        return self._preprocess is not None

    @property
    def has_postprocess(self) -> bool:
        """True where answers are what `postprocess` makes of the model's rows."""
        return self._postprocess is not None

    @property
    def example(self) -> Any:
        """The sample's first item; without `preprocess`, its first row as checked arrays; zeros where no sample was given."""
        if self._preprocess is not None:
            return self._example if isinstance(self._example, str | bytes) else next(iter(self._example))
        if self._example is None:
            return _zeros(self.signature)
        batch = self.check(to_host(self._example))
        return {name: array[:1] for name, array in batch.items()}

    @property
    def signature(self) -> Signature:
        """What the backend takes and gives. `item` says what users of `preprocess` send."""
        return self.backend.signature

    @property
    def lanes(self) -> int:
        """Calls to `run` that may go on side by side."""
        return self.backend.lanes

    # -- predicting

    def predict(self, inputs: Any) -> Any:
        """Return the model's answer, in the structure that the model itself returns.

        Args:
            inputs: `[rows, ...]`: a tensor, an array, nested lists; a tuple of them in the order of `forward`; or a dict by name.
                With `preprocess`: a list of items, or one `str`.

        Returns:
            Tensors for tensors, arrays for arrays and lists. With `preprocess`: a list with one answer per item; one answer for one `str`.

        Raises:
            SignatureError: a name, dtype, shape or number of rows is not the model's.
            ItemError: `preprocess` raised on an item.
            ModelError: the model raised.
        """
        if self._preprocess is None and holds_tensors(inputs):
            outputs, _ = self._forward(inputs)
            return self.backend.restore(outputs)
        parts, finish = self.prepare(inputs)
        return finish(self._run_parts(parts))

    def predict_proba(self, inputs: Any, *, temperature: float = 1.0) -> Any:
        """Return class probabilities for each row.

        The output is read as logits and normalised with softmax (Goodfellow et al., Deep Learning, 2016, eq. 4.1), shifted by
        its largest value so that nothing overflows. A single logit is read as the log-odds of class 1 of 2.

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
        if self._preprocess is None and holds_tensors(inputs):
            outputs, torch = self._forward(inputs)
            logits = _logits(outputs).to(torch.float32) / temperature
            return torch.softmax(_two_classes(logits, torch.cat), dim=-1)
        logits = _logits(self._outputs(inputs)).astype(np.float32) / np.float32(temperature)
        return _softmax(_two_classes(logits, np.concatenate))

    def predict_class(self, inputs: Any) -> Any:
        """Return the most probable class of each row, int64 `[rows]`; arguments and errors as for `predict_proba`."""
        probabilities = self.predict_proba(inputs)
        return probabilities.argmax(-1)

    def warm_up(self) -> None:
        """Run the model once, on the sample's first row, so that the first user does not pay for what happens only once.

        Raises:
            UnsupportedError: no sample was given and nothing was predicted yet.
        """
        self.run(self.prepare_item(self.example, 0) if self.has_preprocess else self.example)

    @contextmanager
    def gradients(self) -> Iterator[None]:
        """Within this context, `predict` on tensors records gradients, still in eval mode: for explanations.

        Raises:
            UnsupportedError: the backend is not torch's.
        """
        backend = self.backend if self._backend is not None or self._module is None else self._unlearned()
        if not isinstance(backend, TorchBackend):
            raise UnsupportedError(f"backend {backend.name!r} has no gradients; use a torch backend such as eager")
        with backend.gradients():
            yield

    # -- for batchers and servers

    def prepare(self, inputs: Any) -> tuple[list[Batch], Callable[[list[Batch]], Any]]:
        """Return checked parts of `inputs`, and the function that makes the answer of the parts' outputs.

        Without `preprocess` the inputs are one part; with it, each item is a part of one row.
        """
        if self._preprocess is None:
            tensors = holds_tensors(inputs)
            part = self.check(to_host(inputs) if tensors else inputs)
            return [part], self._finish_tensors if tensors else self._finish_arrays
        lone = isinstance(inputs, str | bytes)
        items = [inputs] if lone else as_items(inputs)
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
        except Exception as error:
            raise ItemError(f"item {index}: {error if isinstance(error, NogradError) else repr(error)}", index) from error

    def learn_from(self, items: Sequence[Any]) -> None:
        """Probe the model with items, or with rows where there is no `preprocess`, unless a sample has taught it already."""
        if self._module is None or (self._backend is not None and self._backend.signature.outputs):
            return
        from nograd.backends.eager import EagerBackend

        rows = [one_row(item if self._preprocess is None else self._preprocess(item)) for item in items]
        self._backend = in_own_thread(partial(EagerBackend.of, self._module, rows, device=self._device)).result()

    def answers(self, outputs: Batch, *, as_tensors: bool = False) -> Iterator[Any]:
        """Yield the answer for each row of outputs, postprocessed."""
        restore, postprocess = self.backend.restore, self._postprocess
        leaves = _as_tensors(outputs) if as_tensors else outputs
        for row in range(num_rows(outputs)):
            answer = restore({name: leaf[row] for name, leaf in leaves.items()})
            yield answer if postprocess is None else postprocess(answer)

    def check(self, inputs: Any) -> Batch:
        """Return the inputs as a checked Batch; the first ever teaches names, dtypes and ranks where no sample was given."""
        if self._backend is None:
            self._learn(inputs, probed=False)
        return self.signature.check(by_name(inputs, self.signature))

    def run(self, batch: Batch) -> Batch:
        """Run one checked batch, blocking."""
        return self.backend.run(batch)

    def close(self) -> None:
        """Give back what the backend holds."""
        if self._backend is not None:
            self._backend.close()

    # -- inside

    def _learn(self, inputs: Any, *, probed: bool) -> None:
        from nograd.backends.eager import EagerBackend

        module = cast("nn.Module", self._module)
        if not probed:
            self._backend = EagerBackend.unprobed(module, inputs, device=self._device)
        elif self._preprocess is None:
            self._backend = in_own_thread(partial(EagerBackend.of, module, [inputs], device=self._device)).result()
        else:
            self.learn_from([inputs] if isinstance(inputs, str | bytes) else list(inputs))

    def _unlearned(self) -> Backend:
        raise UnsupportedError(
            "nothing is known of the model's inputs yet; give `sample=`, or predict once before `gradients()`"
        )

    def _forward(self, inputs: Any) -> tuple[Mapping[str, Tensor], Any]:
        """Run torch tensors; return the outputs on the device that the inputs came from, and torch."""
        import torch

        from nograd.module import check_tensors

        if self._backend is None:
            self._learn(inputs, probed=False)
        named = check_tensors(by_name(inputs, self.signature), self.signature)
        origin = next(iter(named.values())).device
        if isinstance(self.backend, TorchBackend):
            outputs = self.backend.forward(named)
            return {name: tensor.to(origin) for name, tensor in outputs.items()}, torch
        arrays = self.run({name: tensor.detach().cpu().numpy() for name, tensor in named.items()})
        return {name: torch.from_numpy(array).to(origin) for name, array in arrays.items()}, torch

    def _outputs(self, inputs: Any) -> Batch:
        parts, _ = self.prepare(inputs)
        outputs = self._run_parts(parts)
        return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}

    def _run_parts(self, parts: Sequence[Batch]) -> list[Batch]:
        if len(parts) == 1:
            return [self.run(parts[0])]
        outputs: dict[int, Batch] = {}
        for group in plan(parts, self.signature, MAX_BATCH_SIZE):
            chosen = [parts[position] for position in group]
            outputs.update(zip(group, run_together(chosen, self.run, self.signature), strict=True))
        return [outputs[position] for position in range(len(parts))]

    def _finish_arrays(self, outputs: list[Batch]) -> Any:
        return self.backend.restore(outputs[0])

    def _finish_tensors(self, outputs: list[Batch]) -> Any:
        return self.backend.restore(_as_tensors(outputs[0]))

    def _finish_items(self, outputs: list[Batch], *, lone: bool) -> Any:
        answers = [answer for output in outputs for answer in self.answers(output)]
        return answers[0] if lone else answers


def _as_tensors(outputs: Batch) -> dict[str, Tensor]:
    import torch

    return {name: torch.from_numpy(array) for name, array in outputs.items()}


def _zeros(signature: Signature) -> Batch:
    smallest = {spec.name: tuple(size if isinstance(size, int) else 1 for size in spec.shape) for spec in signature.inputs}
    return {spec.name: np.full((1, *smallest[spec.name]), spec.default or 0, dtype=spec.dtype) for spec in signature.inputs}


def _logits(outputs: Mapping[str, Any]) -> Any:
    found = outputs.get("logits", next(iter(outputs.values())) if len(outputs) == 1 else None)
    if found is None:
        raise SignatureError(
            f"the model has the outputs {', '.join(map(repr, outputs))}; one must be named 'logits' to be read as class scores"
        )
    if found.ndim < 2 or "float" not in str(found.dtype):
        raise SignatureError(
            f"the model's output is {found.dtype} {list(found.shape)}; class scores are floating [rows, classes]"
        )
    return found


def _two_classes(logits: Any, concatenate: Callable[..., Any]) -> Any:
    return logits if logits.shape[-1] > 1 else concatenate([logits * 0, logits], -1)


def _softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return cast("Array", exponentials / exponentials.sum(-1, keepdims=True))
