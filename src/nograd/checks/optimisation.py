"""Optimisation: check for unused and for wasted speed."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nograd.checks.arrays import longer, resized, tiled
from nograd.checks.subject import ModelSubject, TorchSubject
from nograd.checks.timing import least_s
from nograd.core.tensors import Batch
from nograd.errors import ExportError, MissingExtraError, NogradError
from nograd.report.verdict import Check, Verdict, info, passed, skipped, warning

if TYPE_CHECKING:
    from nograd.backends.onnx import OnnxBackend

__all__ = ["CHECKS", "MODULE_CHECKS"]

WORTH_IT = 1.3
"""Minimum speed-up of another backend to be reported. On a busy machine, equal backends differ by less."""


MAX_GRAPHS = 64
"""Limit of graphs per function. Torch's default stops at 8 over all models of a class; here every graph is counted."""


def check_threads(subject: ModelSubject) -> Verdict:
    """Compare the threads of all lanes with the processors that the process may use."""
    threads = _threads_of_a_run(subject)
    if threads is None:
        return skipped(f"backend {subject.predictor.backend.name!r} does not report its number of threads")
    lanes = subject.predictor.lanes
    figures = {"threads": float(threads), "lanes": float(lanes), "cores": subject.cores}
    said = f"{lanes} lanes x {threads} threads on {subject.cores:g} processors"
    if threads * lanes > -(-subject.cores // 1):
        per_lane = max(1, int(subject.cores // lanes))
        return warning(
            f"{said}: too many threads wait for each other (MiniLM took 15 times as long on a busy machine)", **figures
        ).with_remedy(f"OMP_NUM_THREADS={per_lane}, or torch.set_num_threads({per_lane}) before the first run; fewer lanes")
    return passed(said, **figures)


def _threads_of_a_run(subject: ModelSubject) -> int | None:
    import sys

    backend = subject.predictor.backend
    if backend.device != "cpu":
        return None
    if "nograd.backends.modules" in sys.modules:
        from nograd.backends.modules import ModuleBackend

        if isinstance(backend, ModuleBackend):
            return backend.num_threads
    if backend.name == "onnx" and "nograd.backends.onnx" in sys.modules:
        from nograd.backends.onnx import OnnxBackend

        return backend.num_threads if isinstance(backend, OnnxBackend) else None
    return None


def check_backend(subject: TorchSubject) -> Verdict:
    """Export to ONNX, compare the answers, and measure one row on both backends in interleaved runs."""
    model = subject.model
    one = model.one
    try:
        with _as_onnx(subject) as other:
            found = least_s({"own": lambda: model.run(one), "onnx": lambda: other.run(one)}, rounds=9, clock=model.clock)
    except MissingExtraError as failure:
        return skipped(str(failure))
    except ExportError as failure:
        return info(f"the model cannot be exported to ONNX: {' '.join(str(failure).split())[:300]}")
    ratio = found["own"] / found["onnx"]
    said = f"the best time of one row is {found['own'] * 1000:.3g} ms here and {found['onnx'] * 1000:.3g} ms in ONNX Runtime"
    figures = {"ratio": ratio, "own_s": found["own"], "onnx_s": found["onnx"]}
    if ratio > WORTH_IT:
        verdict = info(f"{said}, which is {ratio:.2g} times as fast, with equal answers", **figures)
        return verdict.with_remedy(f"nograd export {model.name} --to onnx -o model.onnx  # or nograd tune")
    return passed(f"{said}: {ratio:.2g} times as fast", **figures)


@contextmanager
def _as_onnx(subject: TorchSubject) -> Iterator[OnnxBackend]:
    from nograd.backends.exporting import quiet
    from nograd.backends.onnx import OnnxBackend
    from nograd.backends.onnx.export import export_to_onnx

    with tempfile.TemporaryDirectory() as folder:
        with quiet():
            made = export_to_onnx(subject.backend, None, Path(folder) / "model.onnx")
        with OnnxBackend(made.path) as backend:
            yield backend


def traffic(subject: ModelSubject) -> tuple[list[Batch], list[Batch]]:
    """Return batches of the sizes that a server warms up with, and batches of other sizes as requests bring them."""
    cap = subject.max_batch_size if subject.signature.batching != "alone" else 1
    warm_rows = sorted({size for size in (1, 2, 4) if size <= cap} | {min(cap, 8)})
    other_rows = [size for size in (3, 5, 7) if size <= cap]
    warm = [tiled(subject.rows, rows) for rows in warm_rows]
    others = [tiled(subject.rows, rows) for rows in other_rows]
    for dim in subject.signature.lengths:
        name, axis = subject.signature.places[dim]
        size = subject.rows[name].shape[axis]
        warm += [_sized(subject, dim, longer(size, subject.signature, dim), rows) for rows in warm_rows]
        others += [_sized(subject, dim, max(2, size - 1), rows) for rows in other_rows or [1]]
    return warm, others


def _sized(subject: ModelSubject, dim: str, size: int, rows: int) -> Batch:
    return tiled(resized(subject.rows, subject.signature.inputs, dim, size), rows)


def check_recompilations(subject: TorchSubject) -> Verdict:
    """Trace graphs for the sizes that a server warms up with, without code generation; count the new graphs for other sizes."""
    warm, others = traffic(subject.model)
    try:
        before, new = _graphs(subject, warm, others)
    except NogradError as failure:
        return skipped(f"torch.compile cannot compile the model: {' '.join(str(failure).split())[:300]}")
    figures = {"warm_graphs": float(before), "new_graphs": float(new), "new_shapes": float(len(others))}
    if new:
        return warning(
            f"{before} graphs served {len(warm)} shapes; {len(others)} other shapes need {new} more graphs, and requests "
            "wait for their compilation",
            **figures,
        )
    return passed(f"{before} graphs serve {len(warm)} warm-up shapes and {len(others)} other shapes", **figures)


def _graphs(subject: TorchSubject, warm: Sequence[Batch], others: Sequence[Batch]) -> tuple[int, int]:
    """Return the number of graphs that torch traces for the warm-up batches, and of additional ones for the others."""
    import torch

    from nograd.backends.modules import ModuleBackend

    graphs: list[object] = []

    def count(graph: Any, example_inputs: Any) -> Any:  # noqa: ARG001  torch's signature
        graphs.append(None)
        return graph.forward

    own = subject.backend
    with subject.as_found(), _silently(), torch._dynamo.config.patch(recompile_limit=MAX_GRAPHS):  # noqa: SLF001
        compiled: Any = torch.compile(subject.module, backend=count)
        backend = ModuleBackend(compiled, own.signature, own.call, own.restore, name="counted", has_gradients=False)
        _run_all(backend.run, warm)
        before = len(graphs)
        _run_all(backend.run, others)
    return before, len(graphs) - before


def _run_all(run: Callable[[Batch], Batch], batches: Iterable[Batch]) -> None:
    for batch in batches:
        run(batch)


def check_graph_breaks(subject: TorchSubject) -> Verdict:
    """Trace the module once with torch, and count the graph breaks."""
    import torch

    from nograd.core.module import EvalMode

    call, sample = subject.backend.call, {name: tensor.clone() for name, tensor in subject.sample.items()}
    with subject.as_found(), EvalMode(subject.module)(), torch.no_grad(), _silently():
        try:
            found = torch._dynamo.explain(lambda **given: call(subject.module, given))(**sample)  # noqa: SLF001
        except Exception as failure:  # noqa: BLE001  tracing runs the model, and more
            return skipped(f"torch cannot trace the model: {type(failure).__name__}: {' '.join(str(failure).split())[:200]}")
    if not found.break_reasons:
        return passed(f"one graph of {found.op_count} operations", graphs=float(found.graph_count))
    reasons = [" ".join(str(each.reason).split())[:120] for each in found.break_reasons]
    return info(
        f"torch.compile would break the graph in {len(reasons)} places: {'; '.join(dict.fromkeys(reasons))}"[:500],
        graphs=float(found.graph_count), breaks=float(len(reasons)),
    )  # fmt: skip


@contextmanager
def _silently() -> Iterator[None]:
    """Suppress torch's log, which has a stack for each graph break. The finding lists the breaks."""
    from nograd.backends.exporting import quiet

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet():
            yield
    finally:
        logging.disable(before)


CHECKS: tuple[Check[ModelSubject], ...] = (
    Check(
        "optimisation.threads", "There is a processor for each thread", "compared lanes x threads with the allowed processors",
        check_threads, "OMP_NUM_THREADS=1", "warning",
    ),
)  # fmt: skip

MODULE_CHECKS: tuple[Check[TorchSubject], ...] = (
    Check(
        "optimisation.backend", "No other backend is faster",
        "exported to ONNX, compared the answers, and measured one row in interleaved runs",
        check_backend, "nograd export MODEL --to onnx -o model.onnx", "info", is_deep=True,
    ),
    Check(
        "optimisation.recompilations", "New shapes need no new graph", "traced warm-up shapes, then other shapes",
        check_recompilations, "torch.compile(model, dynamic=True); no Python loop over x.shape in forward", "warning",
        is_deep=True,
    ),
    Check(
        "optimisation.graph_breaks", "The model is one graph", "traced the module once with torch",
        check_graph_breaks, "torch.where instead of `if tensor:`; no .item(), print or numpy in forward", "info", is_deep=True,
    ),
)  # fmt: skip
