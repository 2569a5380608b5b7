"""Each classical call against the hand-written loop that it replaces (plain torch), side by side in one process.

A pair is measured in turn, so that a slow or busy machine slows both. One thread computes. The main figure is CPU time of the
process: plain / nograd, above 1 if nograd needs less. Wall time is in the next column; it is the main figure of a call that may
use several processors. The answers of both are compared first.

A call whose usual loop guarantees less has two lines: one against a loop with the same guarantees, which the goal covers; and
one against the usual loop, which says what that lacks, and shows what the guarantee costs.

    python -m benchmarks.classical [NAME ...] [--rounds 15]
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import nograd
from benchmarks.classical_caches import cached, embedded, shared
from benchmarks.classical_pairs import BATCH, WIDTH, Dense, Encoder, Pair
from benchmarks.common import keep, show

GOAL = 0.95
SAMPLE_S = 0.05
"""CPU seconds of one measurement, at least: calls are repeated until then."""

ROWS = 512


class Plain:
    """The predictor of many tutorials."""

    def __init__(self, model: nn.Module, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        found: Tensor = self.model(x.to(self.device))
        return found.cpu()

    def predict_proba(self, x: Tensor) -> Tensor:
        return torch.softmax(self.predict(x), dim=-1)

    def predict_class(self, x: Tensor) -> Tensor:
        return self.predict(x).argmax(-1)


# -- one batch


def one_batch(model: nn.Module, make: Callable[[], Any], x: Tensor, gain: str, *, tolerance: float = 1e-4) -> Pair:
    predictor, plain = make(), Plain(model)
    predictor.predict(x)
    return Pair(lambda: predictor.predict(x), lambda: plain.predict(x), gain, tolerance, predictor.close)


def scores(method: str) -> Pair:
    model, x = Dense().eval(), torch.randn(BATCH, WIDTH)
    ours, plain = (getattr(made, method) for made in (nograd.Predictor(model, "cpu"), Plain(model)))
    return Pair(lambda: ours(x), lambda: plain(x), "stable in any dtype; checked shape; problem type of the model")


def predict_rows(rows: int) -> Pair:
    model = Dense().eval()
    gain = "eval and inference mode always; checked inputs; the module left as it was"
    return one_batch(model, partial(nograd.Predictor, model, "cpu"), torch.randn(rows, WIDTH), gain)


def low_latency() -> Pair:
    model = Dense().eval()
    gain = "the fastest backend that agrees with eager, measured here"
    return one_batch(model, partial(nograd.LowLatencyPredictor, model, "cpu"), torch.randn(1, WIDTH), gain)


def half() -> Pair:
    model, x = Dense().eval(), torch.randn(BATCH, WIDTH)
    by_hand = copy.deepcopy(model).half()
    predictor = nograd.FP16Predictor(model, "cpu")
    predictor.predict(x)

    def plain() -> Tensor:
        with torch.no_grad():
            found: Tensor = by_hand(x.half()).float()
        return found

    return Pair(
        lambda: predictor.predict(x), plain, "integers stay integers; a warning where half is slower", 1e-2, predictor.close
    )


def compiled() -> Pair:
    model, x = Dense().eval(), torch.randn(BATCH, WIDTH)
    ours = nograd.optimize_model_compile(model, mode="reduce-overhead", fullgraph=True)
    theirs = torch.compile(copy.deepcopy(model), mode="reduce-overhead", fullgraph=True)

    def run(module: Any) -> Any:
        with torch.no_grad():
            return module(x)

    return Pair(partial(run, ours), partial(run, theirs), "answers every size; runs eagerly if it cannot be compiled")


# -- many rows


def by_hand(model: nn.Module, rows: Sequence[Tensor], size: int) -> Tensor:
    with torch.no_grad():
        starts = range(0, len(rows), size)
        return torch.cat([model(torch.stack(list(rows[start : start + size]))).cpu() for start in starts])


def bulk() -> Pair:
    model, rows = Dense().eval(), list(torch.randn(ROWS, WIDTH))
    predictor = nograd.BatchPredictor(model, "cpu", batch_size=BATCH)
    return Pair(
        lambda: predictor.predict_batch(rows), partial(by_hand, model, rows, BATCH), "bounded memory; an error names its row"
    )


def bulk_lengths() -> Pair:
    model = Encoder().eval()
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(4, 60, (256,), generator=generator).tolist()
    rows = [{"input_ids": torch.randint(1, 1000, (n,)), "attention_mask": torch.ones(n, dtype=torch.int64)} for n in lengths]
    predictor = nograd.BatchPredictor(model, "cpu", batch_size=BATCH)

    def plain() -> Tensor:
        found = []
        pad = partial(nn.utils.rnn.pad_sequence, batch_first=True)
        with torch.no_grad():
            for start in range(0, len(rows), BATCH):
                batch = rows[start : start + BATCH]
                found.append(model(pad([row["input_ids"] for row in batch]), pad([row["attention_mask"] for row in batch])))
        return torch.cat(found)

    return Pair(lambda: predictor.predict_batch(rows), plain, "sorted by length: less padding; padded only if that is right")


def throughput() -> Pair:
    model, rows, size = Dense().eval(), list(torch.randn(ROWS, WIDTH)), 64
    predictor = nograd.HighThroughputPredictor(model, "cpu", batch_size=size)
    predictor.predict_batch(rows)

    def plain() -> list[Tensor]:
        found: list[Tensor] = []
        with torch.no_grad():
            for start in range(0, len(rows), size):
                found.extend(model(torch.stack(rows[start : start + size])).cpu())
        return found

    return Pair(
        lambda: predictor.predict_batch(rows),
        plain,
        "the layout of most rows a second, measured here",
        close=predictor.close,
        is_parallel=True,
    )


# -- concurrent requests


class QueueBatcher:
    """The dynamic batcher of many tutorials: a queue, a task that collects, an executor that runs."""

    def __init__(self, model: nn.Module, max_batch_size: int, max_wait_ms: float) -> None:
        self.model, self.size, self.wait_s = model, max_batch_size, max_wait_ms / 1000
        self.queue: asyncio.Queue[tuple[Tensor, asyncio.Future[Tensor]]] = asyncio.Queue()
        self.task = asyncio.create_task(self._serve())

    async def predict(self, x: Tensor) -> Tensor:
        future = asyncio.get_running_loop().create_future()
        await self.queue.put((x, future))
        found: Tensor = await future
        return found

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self.queue.get()]
            until = loop.time() + self.wait_s
            while len(batch) < self.size and (left := until - loop.time()) > 0:
                try:
                    batch.append(await asyncio.wait_for(self.queue.get(), left))
                except TimeoutError:
                    break
            outputs = await loop.run_in_executor(None, self._run, torch.cat([x for x, _ in batch]))
            for row, (_, future) in zip(torch.split(outputs, 1), batch, strict=True):
                if not future.done():
                    future.set_result(row)

    def _run(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = self.model(x)
        return found

    async def close(self) -> None:
        self.task.cancel()


def concurrent() -> Pair:
    model, x = Dense().eval(), torch.randn(1024, WIDTH)

    async def clients(make: Callable[[], Any]) -> Tensor:
        batcher = make()
        found: list[Tensor] = [x] * len(x)

        async def client(number: int) -> None:
            for index in range(number, len(x), 64):
                found[index] = await batcher.predict(x[index : index + 1])

        await asyncio.gather(*map(client, range(64)))
        await batcher.close()
        return torch.cat(found)

    predictor = nograd.Predictor(model, "cpu", sample=x[:2])
    settings: dict[str, Any] = {"max_batch_size": 32, "max_wait_ms": 10.0}
    return Pair(
        lambda: asyncio.run(clients(lambda: nograd.DynamicBatcher(predictor, **settings))),
        lambda: asyncio.run(clients(lambda: QueueBatcher(model, **settings))),
        "a bad row fails alone; deadlines; a bounded queue; cancelling",
    )


# -- files


def onnx(folder: Path) -> Pair:
    import onnxruntime as ort

    model, x = Dense().eval(), torch.randn(BATCH, WIDTH)
    path = str(folder / "model.onnx")
    nograd.export_to_onnx(model, x, path)
    predictor = nograd.ONNXPredictor(path, device="cpu", num_threads=1)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name, array = session.get_inputs()[0].name, x.numpy()
    return Pair(
        lambda: torch.from_numpy(predictor.predict(array)),
        lambda: torch.from_numpy(session.run(None, {name: array})[0]),
        "checked inputs; compared with eager; falls back to the CPU with a warning",
    )


def torchscript(folder: Path) -> Pair:
    model, x = Dense().eval(), torch.randn(BATCH, WIDTH)
    nograd.export_to_torchscript(model, x, str(folder / "ours.pt"), method="trace")
    torch.jit.trace(model, x).save(str(folder / "plain.pt"))  # type: ignore[no-untyped-call]
    loaded = [torch.jit.load(str(folder / name)) for name in ("ours.pt", "plain.pt")]  # type: ignore[no-untyped-call]

    def run(module: Any) -> Any:
        with torch.no_grad():
            return module(x)

    return Pair(partial(run, loaded[0]), partial(run, loaded[1]), "compared with eager at other sizes before it is written")


# -- modules


def quantized(*, by_torch: bool) -> Pair:
    """quantize_dynamic against the float32 model, or against torch.ao's function of the same name.

    nograd scales the activations of each row by that row's range, and keeps the float32 computation of layers in which 8-bit
    products are slower. torch.ao has one range for the batch, so that other rows change a row's answer.
    """
    model, x = Dense().eval(), torch.randn(BATCH, WIDTH)
    made = nograd.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    theirs = model
    if by_torch:
        quantize = torch.ao.quantization.quantize_dynamic
        theirs = quantize(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]

    def run(module: Any) -> Any:
        with torch.no_grad():
            return module(x)

    run(made)
    gain = "a quarter of the bytes; layers that hurt stay in float; a report; rows are independent"
    missing = "lets rows influence each other" if by_torch else ""
    return Pair(partial(run, made), partial(run, theirs), gain, 0.1, missing=missing)


class Stubbed(nn.Module):
    """A model between the stubs that torch.ao wants."""

    def __init__(self, model: Dense) -> None:
        super().__init__()
        self.quant, self.dequant = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
        self.body = copy.deepcopy(model.body)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.dequant(self.body(self.quant(x)))
        return found


def quantized_statically() -> Pair:
    model, batches = Dense().eval(), [torch.randn(BATCH, WIDTH) for _ in range(16)]
    made, ao = nograd.quantize_static(model, batches), torch.ao.quantization
    theirs = Stubbed(model).eval()
    theirs.qconfig = ao.get_default_qconfig("x86")  # type: ignore[no-untyped-call]
    ao.fuse_modules(theirs.body, [["0", "1"], ["2", "3"]], inplace=True)  # type: ignore[no-untyped-call]
    ao.prepare(theirs, inplace=True)  # type: ignore[no-untyped-call]
    for batch in batches:
        theirs(batch)
    ao.convert(theirs, inplace=True)  # type: ignore[no-untyped-call]

    def run(module: Any) -> Any:
        with torch.no_grad():
            return module(batches[0])

    return Pair(partial(run, made), partial(run, theirs), "a report; labels are left out; the faster kernel is chosen", 0.1)


def checkpointed() -> Pair:
    from torch.utils.checkpoint import checkpoint

    layers = nn.Sequential(*(nn.Sequential(nn.Linear(256, 256), nn.ReLU()) for _ in range(6)))
    model, x = nograd.MemoryEfficientModel(copy.deepcopy(layers)), torch.randn(64, 256)

    def gradients(module: nn.Module, run: Callable[[Tensor], Tensor]) -> Tensor:
        module.zero_grad()
        run(x).square().sum().backward()  # type: ignore[no-untyped-call]
        return torch.cat([each.grad.reshape(-1) for each in module.parameters() if each.grad is not None])

    def by_layers(values: Tensor) -> Tensor:
        for layer in layers:
            values = checkpoint(layer, values, use_reentrant=False)
        return values

    return Pair(
        partial(gradients, model, model),
        partial(gradients, layers, by_layers),
        "finds the layers; dropout and batch norm as they ran",
    )


def pairs(folder: Path) -> dict[str, Callable[[], Pair]]:
    return {
        "Predictor.predict, 1 row": partial(predict_rows, 1),
        "Predictor.predict, 32 rows": partial(predict_rows, BATCH),
        "Predictor.predict_proba": partial(scores, "predict_proba"),
        "Predictor.predict_class": partial(scores, "predict_class"),
        "BatchPredictor.predict_batch": bulk,
        "BatchPredictor.predict_batch, lengths": bulk_lengths,
        "HighThroughputPredictor.predict_batch": throughput,
        "DynamicBatcher.predict, 64 clients": concurrent,
        "CachedPredictor.predict, 3 of 4 known": partial(cached, by_dict=False),
        "CachedPredictor.predict, against a dict": partial(cached, by_dict=True),
        "RedisCachedPredictor.predict, 3 of 4 known": partial(shared, folder, by_redis=False),
        "RedisCachedPredictor.predict, against redis-py": partial(shared, folder, by_redis=True),
        "CachedEmbedder.embed, 3 of 4 known": partial(embedded, by_dict=False),
        "CachedEmbedder.embed, against a dict": partial(embedded, by_dict=True),
        "LowLatencyPredictor.predict": low_latency,
        "FP16Predictor.predict": half,
        "ONNXPredictor.predict": partial(onnx, folder),
        "export_to_torchscript": partial(torchscript, folder),
        "optimize_model_compile": compiled,
        "quantize_dynamic": partial(quantized, by_torch=False),
        "quantize_dynamic, against torch.ao": partial(quantized, by_torch=True),
        "quantize_static": quantized_statically,
        "MemoryEfficientModel, gradients": checkpointed,
    }


# -- measuring


def compare(pair: Pair) -> float:
    """Return the largest difference of the answers, as a share of the largest value.

    Raises:
        SystemExit: it is beyond the pair's tolerance.
    """
    found, right = (_as_tensor(call()).double() for call in (pair.ours, pair.plain))
    if found.shape != right.shape:
        raise SystemExit(f"shapes differ: {list(found.shape)} and {list(right.shape)}")
    off = float((found - right).abs().max() / right.abs().max().clamp(min=1e-12))
    if off > pair.tolerance:
        raise SystemExit(f"answers differ by {off:.2g}; allowed is {pair.tolerance:g}")
    return off


def _as_tensor(answers: Any) -> Tensor:
    return torch.stack(answers) if isinstance(answers, list) else torch.as_tensor(answers)


def seconds(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return CPU and wall seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - cpu) / repeats, (time.perf_counter() - wall) / repeats


def rounds_of(pair: Pair, rounds: int) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    """Yield (plain, nograd) by round; who goes first alternates."""
    once = max(seconds(pair.plain, 3)[0], seconds(pair.ours, 3)[0], 1e-6)
    repeats = max(1, int(SAMPLE_S / once))
    for number in range(rounds):
        calls = [pair.plain, pair.ours]
        found = [seconds(call, repeats) for call in (calls if number % 2 else calls[::-1])]
        plain, ours = found if number % 2 else found[::-1]
        yield plain, ours


def quartiles(values: Sequence[float]) -> str:
    """Median, and the middle half of the rounds."""
    ordered = sorted(values)
    return f"{median(ordered):.2f} [{ordered[len(ordered) // 4]:.2f} .. {ordered[-1 - len(ordered) // 4]:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of the names of the calls; default: all")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data: dict[str, Any] = {}
    table = [["call", "CPU us", "plain", "CPU plain/nograd", "wall plain/nograd", "off", "gain; what the loop lacks"]]
    with tempfile.TemporaryDirectory() as folder:
        for name, make in pairs(Path(folder)).items():
            if given.names and not any(part in name for part in given.names):
                continue
            pair = make()
            off = compare(pair)
            found = list(rounds_of(pair, given.rounds))
            pair.close()
            cpu = [plain[0] / ours[0] for plain, ours in found]
            wall = [plain[1] / ours[1] for plain, ours in found]
            times = [f"{median([each[side][0] for each in found]) * 1e6:.0f}" for side in (1, 0)]
            data[name] = {
                "cpu_ratio": cpu, "wall_ratio": wall, "off": off, "load": os.getloadavg()[0], "missing": pair.missing,
                "goal": wall if pair.is_parallel else cpu,
            }  # fmt: skip
            words = f"the loop {pair.missing}" if pair.missing else pair.gain
            table.append([name, *times, quartiles(cpu), quartiles(wall), f"{off:.1e}", words])
            sys.stderr.write(f"{name}: {quartiles(cpu)}\n")
    show(table)
    slow = [name for name, each in data.items() if not each["missing"] and median(each["goal"]) < GOAL]
    sys.stdout.write(f"goal: never below {GOAL}x: {'met' if not slow else 'MISSED by ' + ', '.join(slow)}\n")
    if not given.names:
        keep("classical", data, goal=f"never below {GOAL}x of plain torch", met=not slow)


if __name__ == "__main__":
    main()
