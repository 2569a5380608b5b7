"""The contract that every backend keeps. A new one joins by a line in EXPORTS or MAKE."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from shutil import copyfile, copytree, rmtree
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nograd
from nograd.backends import Backend, TorchBackend, aot
from nograd.backends.aot import export_to_pt2, load_pt2
from nograd.backends.compiled import make_distinct, optimize_model_compile
from nograd.backends.eager import eager_backend, unprobed_backend
from nograd.backends.exporting import Export
from nograd.backends.modules import resolve_device
from nograd.backends.onnx import OnnxBackend
from nograd.backends.onnx.export import export_to_onnx
from nograd.backends.openvino import OpenVinoBackend, export_to_openvino
from nograd.backends.torchscript import export_to_torchscript, load_torchscript
from nograd.bundle import BundleSettings, ExportedFile, write_bundle
from nograd.core.tensors import Batch
from nograd.errors import ConfigError, ExportError, ModelError, ModelLoadError, SignatureError, UnsupportedError
from nograd.exports import open_file
from tests.torch_models import LastState

EXPORTS: dict[str, tuple[str, Callable[..., Any], Callable[..., Backend]]] = {
    "torchscript": ("model.pt", export_to_torchscript, partial(load_torchscript, trusted=True)),
    "aot": ("model.pt2", export_to_pt2, partial(load_pt2, trusted=True)),
    "onnx": ("model.onnx", export_to_onnx, OnnxBackend),
    "openvino": ("model.xml", export_to_openvino, OpenVinoBackend),
}
"""File, exporter and loader of each backend that runs from a file. A new one joins the contract by a line here."""

KINDS = ("eager", "compiled", *EXPORTS)
"""Every backend of the contract."""

every_backend = pytest.mark.parametrize("backend", KINDS, indirect=True)
every_python_backend = pytest.mark.parametrize("make", ["eager", "compiled"], indirect=True)


def compiled(module: nn.Module, samples: Sequence[Any]) -> Backend:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inductor's own, of Python's ast
        return optimize_model_compile(eager_backend(module, samples), batch_sizes=[1, 8])


MAKE: dict[str, Callable[[nn.Module, Sequence[Any]], Backend]] = {"eager": eager_backend, "compiled": compiled}
"""Constructor of each backend that runs a module, without a file."""


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Callable[[nn.Module, Sequence[Any]], Backend]:
    """The constructor of a backend from a module and samples."""
    return MAKE[request.param]


@dataclass(frozen=True)
class Built:
    """A backend that many tests run, the module that it was made from, and its file, if it has one."""

    backend: Backend
    module: nn.Module
    export: Export | None


def build(kind: str, module: nn.Module, sample: Any, folder: Path) -> Built:
    if kind in MAKE:
        return Built(MAKE[kind](module, [sample]), module, None)
    file, export, load = EXPORTS[kind]
    made = export(eager_backend(module, [sample]), None, folder / file)
    return Built(load(made), module, made)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """Return the backend of one kind over `Contract`: built once, because AOTInductor takes 8 s for the smallest model."""

    @cache
    def of_kind(kind: str) -> Built:
        torch.manual_seed(0)
        return build(kind, Contract(), SAMPLE, tmp_path_factory.mktemp(kind))

    return of_kind


@pytest.fixture(scope="module")
def built_in_halves(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """Return the backend of one kind over `Halves`, built once."""

    @cache
    def of_kind(kind: str) -> Built:
        torch.manual_seed(0)
        return build(kind, *in_halves(kind), tmp_path_factory.mktemp(kind))

    return of_kind


@pytest.fixture
def backend(request: pytest.FixtureRequest, built: Callable[[str], Built]) -> Backend:
    """The shared backend of one kind over `Contract`."""
    return built(request.param).backend


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Contract(nn.Module):
    """All that a backend must carry over, in one module, because compiling is slow.

    Inputs of two kinds, one of them of any length with a mask; nested outputs; a change of its own input; dropout and batch
    norm, which show the mode; tied weights; a buffer of bytes.
    """

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.clip = nn.ReLU(inplace=True)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU(inplace=True))
        self.embedding = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("table", torch.arange(50, dtype=torch.uint8))

    def forward(self, x: Tensor, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        found = self.embedding(ids) * mask.unsqueeze(-1).float()
        scale = (self.table[ids].float() * mask).sum(1, keepdim=True) / 1000
        mean = found.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return {"logits": self.head(self.body(self.clip(x)) + mean * scale), "aux": (found, ids > 0)}


SAMPLE = {
    "x": torch.ones(2, 4),
    "ids": torch.tensor([[4, 9, 2, 7, 5], [1, 2, 3, 0, 0]]),
    "mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}


def batch(rows: int, tokens: int = 3) -> Batch:
    rng = np.random.default_rng(rows)
    return {
        "x": rng.standard_normal((rows, 4), dtype=np.float32),
        "ids": rng.integers(0, 50, (rows, tokens)),
        "mask": np.ones((rows, tokens), np.int64),
    }


def plain(module: nn.Module, given: Batch) -> Any:
    """Return the module's own answer in eval mode; the module keeps its mode."""
    with torch.no_grad():
        return deepcopy(module).eval()(**{name: torch.from_numpy(array.copy()) for name, array in given.items()})


class Halves(nn.Module):
    """Computes in half precision, one dtype for each input; a row's answer depends on the other rows of its batch."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first = nn.Linear(3, 2).half()
        self.second = None if kind in ("onnx", "openvino") else nn.Linear(3, 2).bfloat16()

    def forward(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        answers = {"x": self.first(x)}
        if self.second is not None:
            answers["y"] = self.second(y)
        return {f"of_{name}": answer - answer.amax(0, keepdim=True) for name, answer in answers.items()}


def in_halves(kind: str) -> tuple[nn.Module, Any]:
    """Return the module and its sample, without bfloat16 for ONNX Runtime, which has none on a CPU."""
    module = Halves(kind)
    sample = {"x": torch.randn(3, 3).half(), "y": torch.randn(3, 3).bfloat16()}
    return module, sample if module.second is not None else {"x": sample["x"]}


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (1, 40), (2, 3), (7, 4), (32, 17), (33, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_rows_of_any_length_is_answered_as_the_module_in_eval_mode(
    built: Callable[[str], Built], kind: str, rows: int, tokens: int
) -> None:
    backend, given = built(kind).backend, batch(rows, tokens)

    outputs = backend.run(given)

    expected = plain(built(kind).module, given)
    assert list(outputs) == [spec.name for spec in backend.signature.outputs] == ["logits", "aux.0", "aux.1"]
    for name, tensor in zip(outputs, (expected["logits"], *expected["aux"]), strict=True):
        assert isinstance(outputs[name], np.ndarray)
        assert outputs[name].flags.c_contiguous
        np.testing.assert_allclose(outputs[name], tensor.numpy(), rtol=1e-5, atol=1e-6)


@every_backend
def test_each_row_is_answered_for_itself(backend: Backend) -> None:
    given = batch(5)

    together = backend.run(given)["logits"]
    alone = [backend.run({name: array[row : row + 1] for name, array in given.items()})["logits"] for row in range(5)]

    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-6)


@every_backend
def test_the_callers_arrays_stay_as_they_are_even_read_only_ones(backend: Backend) -> None:
    given = {**batch(2), "x": -np.ones((2, 4), dtype=np.float32)}
    for array in given.values():
        array.flags.writeable = False

    answer = backend.run(given)["logits"]
    before = answer.copy()
    answer += 1

    assert (given["x"] == -1).all()
    assert (backend.run(given)["logits"] == before).all()


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_taken_as_it_is_and_answered_in_float32(built_in_halves: Callable[[str], Built], kind: str) -> None:
    backend = built_in_halves(kind).backend
    dtypes = {"x": "float16"} if kind in ("onnx", "openvino") else {"x": "float16", "y": "bfloat16"}

    checked = backend.signature.check({name: np.ones((1, 3), dtype=np.float32) for name in dtypes})
    outputs = backend.run(checked)

    assert {name: array.dtype.name for name, array in checked.items()} == dtypes
    assert {name: array.dtype.name for name, array in outputs.items()} == {f"of_{name}": "float32" for name in dtypes}
    assert {spec.dtype for spec in backend.signature.outputs} == {"float32"}


def test_onnx_runtime_has_no_bfloat16_on_a_cpu_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="NOT_IMPLEMENTED"):
        export_to_onnx(nn.Linear(3, 2).bfloat16(), torch.ones(2, 3), tmp_path / "model.onnx")


@every_python_backend
def test_what_the_model_raises_is_the_cause_of_one_sentence_with_what_was_given(make: Callable[..., Backend]) -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if (x > 9).any():
                raise ValueError("too much")
            return x * 1

    backend = make(Picky(), [torch.zeros(2, 3)])

    with pytest.raises(ModelError) as caught:
        backend.run({"x": np.full((1, 3), 10, np.float32)})

    assert str(caught.value) == "the model raised ValueError on x float32 [1, 3]: too much"
    assert isinstance(caught.value.__cause__, ValueError)
    assert backend.run({"x": np.ones((1, 3), np.float32)})["output"].tolist() == [[1.0] * 3]


@every_python_backend
def test_outputs_that_lose_a_row_are_an_error_not_an_answer(make: Callable[..., Backend]) -> None:
    class Filter(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[x[:, 0] >= 0] * 1

    backend = make(Filter(), [torch.ones(2, 3)])

    with pytest.raises(ModelError, match=r"output 'output' is float32 \[1, 3\] for 2 rows; every output must be \[rows, ...\]"):
        backend.run({"x": np.array([[1, 1, 1], [-1, 1, 1]], np.float32)})


@every_python_backend
def test_an_answer_does_not_change_when_the_model_uses_its_memory_again(make: Callable[..., Backend]) -> None:
    class Reusing(nn.Module):
        memory: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("memory", torch.zeros(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.memory[: len(x)].copy_(x)

    backend = make(Reusing(), [torch.ones(2, 3)])

    first = backend.run({"x": np.ones((1, 3), np.float32)})["output"]
    backend.run({"x": np.zeros((1, 3), np.float32)})

    assert first.tolist() == [[1.0] * 3]
    assert backend.signature.batching == "pad"


@every_backend
def test_outputs_go_back_into_the_models_own_structure(backend: Backend) -> None:
    restored = backend.restore(backend.run(batch(2)))

    assert list(restored) == ["logits", "aux"]
    assert isinstance(restored["aux"], tuple)
    assert restored["aux"][1].dtype == bool


@pytest.mark.parametrize("kind", KINDS)
def test_concurrent_runs_each_return_their_own_answer(built: Callable[[str], Built], kind: str) -> None:
    backend = built(kind).backend
    expected = [backend.run(batch(rows))["logits"] for rows in range(1, 9)]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda rows: backend.run(batch(rows))["logits"], range(1, 9)))

    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert built(kind).module.training


@every_backend
def test_an_id_that_no_embedding_has_is_refused_before_the_model_sees_it(backend: Backend) -> None:
    with pytest.raises(SignatureError, match="input 'ids' contains 50; the model takes 0 to 49"):
        backend.signature.check({**batch(1), "ids": np.array([[1, 50, 1]])})


@every_backend
def test_it_has_a_name_a_device_lanes_and_independent_rows(backend: Backend) -> None:
    assert backend.name
    assert backend.device in ("cpu", "cuda:0")
    assert backend.lanes >= 1
    assert backend.signature.batching == "pad"


@pytest.mark.parametrize("kind", ["eager", "compiled", "torchscript", "aot"])
def test_tensors_are_answered_with_tensors_of_the_models_dtype_that_autograd_takes(
    built_in_halves: Callable[[str], Built], kind: str
) -> None:
    backend = cast("TorchBackend", built_in_halves(kind).backend)

    output = backend.forward({"x": torch.rand(2, 3).half(), "y": torch.rand(2, 3).bfloat16()})["of_y"]

    assert output.dtype == torch.bfloat16
    assert not output.is_inference()
    weight = torch.ones(2, requires_grad=True)
    (gradient,) = torch.autograd.grad((output.float() * weight).sum(), weight)
    assert gradient.shape == (2,)


class Lookup(nn.Module):
    """Ids of any number: a masked mean of embeddings, and the embeddings themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 6)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        found = self.embedding(ids) * mask.unsqueeze(-1).float()
        return found.sum(1) / mask.sum(1, keepdim=True).clamp(min=1), found


LOOKUP_SAMPLE = {name: SAMPLE[name] for name in ("ids", "mask")}


@pytest.mark.parametrize("dynamic", [True, False])
def test_nothing_is_compiled_after_the_warm_up(dynamic: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backend = optimize_model_compile(Lookup(), LOOKUP_SAMPLE, dynamic=dynamic, batch_sizes=[1, 4], lengths=[4, 8])
    module = Lookup()

    for rows, tokens in ((1, 1), (1, 7), (2, 3), (4, 8), (9, 5)):
        ids = torch.randint(0, 50, (rows, tokens))
        found = backend.run({"ids": ids.numpy(), "mask": torch.ones_like(ids).numpy()})
        backend.backend.forward({"ids": ids[:4], "mask": torch.ones_like(ids[:4])}) if dynamic else None
        assert found["output_1"].shape == (rows, tokens, 6)

    assert (backend.compilations, backend.reason, module.training) == (0, "", True)


def test_sizes_that_the_model_does_not_take_are_not_warmed_up() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backend = optimize_model_compile(nn.Conv2d(1, 2, 5), torch.rand(2, 1, 9, 9), batch_sizes=[1, 2], lengths=[4, 16])

    assert backend.run({"input": np.ones((3, 1, 12, 14), np.float32)})["output"].shape == (3, 2, 8, 10)
    assert (backend.compilations, backend.reason) == (0, "")


def test_the_sizes_of_the_warm_up_differ_between_dimensions() -> None:
    assert make_distinct([[1, 16], [1, 16]], taken=[1, 2]) == [[1, 16], [1, 15]]
    assert make_distinct([[3, 32], [5, 32], [32]], taken=[1, 2, 32]) == [[3, 31], [5, 30], [32]]


def test_a_graph_that_breaks_is_compiled_in_pieces_with_the_reason() -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return x * 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backend = optimize_model_compile(Breaks(), torch.ones(2, 3), batch_sizes=[1, 4])

    assert "graph_break" in backend.reason
    assert backend.run({"x": np.ones((3, 3), np.float32)})["output"].tolist() == [[2.0] * 3] * 3


def test_what_may_not_be_compiled_in_pieces_runs_eagerly_with_a_warning() -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return x * 2

    with pytest.warns(UserWarning, match="the model runs eagerly, not compiled: "):
        backend = optimize_model_compile(Breaks(), torch.ones(2, 3), fullgraph=True, batch_sizes=[1, 4])

    assert backend.run({"x": np.ones((3, 3), np.float32)})["output"].tolist() == [[2.0] * 3] * 3


@pytest.mark.parametrize("backend", ["compiled", "torchscript", "aot"], indirect=True)
def test_gradients_are_refused_where_autograd_cannot_follow(backend: TorchBackend) -> None:
    with pytest.raises(UnsupportedError, match=f"backend '{backend.name}' has no gradients"), backend.gradients():
        pass


def test_gradients_are_recorded_in_the_thread_that_asked_and_in_no_other() -> None:
    backend = eager_backend(nn.Linear(3, 2), [torch.ones(2, 3)])
    x = torch.ones(1, 3, requires_grad=True)
    elsewhere: list[bool] = []

    with backend.gradients():
        with backend.gradients():
            pass
        other = threading.Thread(target=lambda: elsewhere.append(backend.forward({"input": x})["output"].requires_grad))
        other.start()
        other.join()
        here = backend.forward({"input": x})["output"].requires_grad

    assert (here, elsewhere) == (True, [False])
    assert not backend.forward({"input": x})["output"].requires_grad


# -- exports


@pytest.mark.parametrize("kind", EXPORTS)
def test_a_branch_on_the_data_is_found_and_the_file_that_was_there_stays(kind: str, tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x - 1

    file, export, _ = EXPORTS[kind]
    (tmp_path / file).write_text("precious")

    with pytest.raises(ExportError) as caught:
        export(Branching(), torch.ones(2, 3), tmp_path / file)

    assert "branch" in str(caught.value) or "Could not guard on data-dependent expression" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [file]
    assert (tmp_path / file).read_text() == "precious"


def test_a_package_that_answers_differently_is_not_written(
    built: Callable[[str], Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Path(cast("Export", built("aot").export))
    monkeypatch.setattr(aot, "_compile", lambda _reference, written, **_options: copyfile(right, written))
    other = deepcopy(built("aot").module)
    with torch.no_grad():
        other.get_parameter("body.0.bias").add_(0.1)

    with pytest.raises(ExportError, match="the answers of the export to aot differ from the model's"):
        export_to_pt2(other, SAMPLE, tmp_path / "model.pt2")

    assert list(tmp_path.iterdir()) == []
    assert export_to_pt2(built("aot").module, SAMPLE, tmp_path / "model.pt2").parity.passed


@pytest.mark.parametrize("kind", EXPORTS)
def test_an_export_is_a_path_and_says_how_closely_it_agrees(kind: str, built: Callable[[str], Built]) -> None:
    file, _, load = EXPORTS[kind]

    made = cast("Export", built(kind).export)
    with load(made) as backend:
        assert backend.run(batch(2))["logits"].shape == (2, 50)

    assert Path(made).name == file
    assert made.parity.passed
    assert made.parity.rows > 10
    assert made.notes[-1].startswith("written by ")


@pytest.mark.parametrize("kind", EXPORTS)
def test_an_exported_file_answers_as_it_did_before_it_was_bundled(
    kind: str, built: Callable[[str], Built], tmp_path: Path
) -> None:
    path = Path(cast("Export", built(kind).export))
    signature = eager_backend(built(kind).module, [SAMPLE]).signature
    folder = copytree(path.parent, tmp_path / "files")
    before = open_file(path, trusted=True, num_threads=1).run(batch(5))
    bundle = write_bundle(
        tmp_path / "bundle.zip", model=ExportedFile(folder / path.name), signature=signature,
        settings=BundleSettings(name="contract", backend=kind, lanes=2),
    )  # fmt: skip
    rmtree(folder)

    code = {"torchscript": r"a TorchScript program \(model\.pt\)", "aot": r"native code \(model\.pt2\)"}.get(kind, "")
    if code:
        with pytest.raises(ConfigError, match=code):
            nograd.load(str(bundle))
    opened = nograd.load(str(bundle), trusted=bool(code))

    assert (opened.backend.name, opened.lanes) == (kind, 2)
    assert opened.signature == signature
    after = opened.backend.run(batch(5))
    assert {name: array.tobytes() for name, array in after.items()} == {name: array.tobytes() for name, array in before.items()}


@pytest.mark.parametrize("kind", EXPORTS)
def test_what_cannot_be_opened_is_told_in_one_sentence(kind: str, tmp_path: Path) -> None:
    file, _, load = EXPORTS[kind]
    with pytest.raises(ModelLoadError, match="there is no file"):
        load(tmp_path / file)
    (tmp_path / file).write_bytes(b"not a model")
    with pytest.raises(ModelLoadError, match="cannot load"):
        load(tmp_path / file)


@pytest.mark.parametrize("load", [load_torchscript, load_pt2])
def test_a_program_is_opened_only_when_it_is_trusted(load: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"")

    with pytest.raises(ConfigError, match=r"opening it runs that code; .* trusted=True"):
        load(tmp_path / "model.pt2", trusted=False)


@pytest.mark.parametrize("kind", EXPORTS)
def test_an_lstm_answers_as_eager_at_every_length(kind: str, tmp_path: Path) -> None:
    file, export, load = EXPORTS[kind]
    module = LastState()
    if kind == "aot":  # torch.export unrolls an LSTM over the sample's length: told, not shipped
        with pytest.raises(ExportError, match=r"torch.export cannot export the model: .* specialized it to be a constant"):
            export(module, torch.randn(2, 5, 4), tmp_path / file)
        return
    made = export(module, torch.randn(2, 5, 4), tmp_path / file)
    given = {"x": np.random.default_rng(0).standard_normal((3, 11, 4), dtype=np.float32)}

    outputs = load(tmp_path / file).run(given)

    expected = plain(module, given)
    np.testing.assert_allclose(outputs["steps"], expected["steps"].numpy(), rtol=1e-4, atol=1e-5)
    assert load(tmp_path / file).signature.batching == "equal_lengths"
    assert made.notes[-1].startswith(
        "written by torch.jit" if kind == "torchscript" else "written by torch.onnx.export(dynamo=False)"
    )


@pytest.mark.parametrize("cell", [nn.GRU, nn.RNN, partial(nn.LSTM, bidirectional=True)])
def test_recurrent_layers_become_operators_of_onnx(cell: Callable[..., nn.Module], tmp_path: Path) -> None:
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([cell(4, 3, batch_first=True)])

        def forward(self, x: Tensor) -> Tensor:
            steps: Tensor = self.layers[0](x)[0]
            return steps

    module = Inside()
    made = export_to_onnx(module, torch.randn(2, 5, 4), tmp_path / "model.onnx")
    given = {"x": np.random.default_rng(0).standard_normal((3, 11, 4), dtype=np.float32)}

    assert made.notes == ("written by torch.onnx.export(dynamo=False)",)
    np.testing.assert_allclose(OnnxBackend(made).run(given)["output"], plain(module, given).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", EXPORTS)
def test_what_the_probe_found_goes_with_the_file(kind: str, built_in_halves: Callable[[str], Built]) -> None:
    signature = built_in_halves(kind).backend.signature

    assert (signature.batching, signature.reason) == ("alone", "a row's answer depends on the other rows of its batch")


# -- eager alone


@pytest.mark.parametrize("device", ["tpu", "cuda:99", 5.5])
def test_a_device_that_is_not_here_is_told_in_one_sentence(device: Any) -> None:
    with pytest.raises(ConfigError, match=f"device is '{device}'; torch cannot use it here: ") as caught:
        resolve_device(device, nn.Linear(1, 1))

    assert "\n" not in str(caught.value)


def test_a_module_on_its_device_is_run_itself_and_not_a_copy() -> None:
    module = nn.Linear(2, 1)
    backend = eager_backend(module, [torch.ones(1, 2)], device="cpu")

    with torch.no_grad():
        module.weight.zero_()
        module.bias.fill_(7)

    assert backend.run({"input": np.ones((1, 2), np.float32)})["output"].tolist() == [[7.0]]


def test_unprobed_it_knows_names_kinds_and_ranks_and_batches_nothing() -> None:
    backend = unprobed_backend(Contract(), SAMPLE)

    inputs = ["float32 [rows, x_1]", "int64 [rows, ids_1]", "int64 [rows, mask_1]"]
    assert [str(spec) for spec in backend.signature.inputs] == inputs
    assert (backend.signature.batching, backend.signature.reason) == ("alone", "nothing was probed: no sample was given")
    assert isinstance(backend.restore(backend.run(batch(3)))["aux"], tuple)
    with pytest.raises(SignatureError, match=r"input 'x' is a single number; every input must be \[rows, ...\]"):
        unprobed_backend(Contract(), {"x": 1.0, "ids": [[1]], "mask": [[1]]})


class Counting(nn.Module):
    """Answers with the threads that it computes with."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.full((len(x), 1), float(torch.get_num_threads()))


@pytest.mark.parametrize("count", [1, 3])
def test_a_run_computes_with_the_threads_asked_for_and_leaves_the_callers_setting(count: int) -> None:
    backend = eager_backend(Counting(), [torch.ones(1, 2)], device="cpu").in_layout(1, count)
    before = torch.get_num_threads()

    ran = backend.run({"x": np.ones((2, 2), np.float32)})["output"]
    forwarded = backend.forward({"x": torch.ones(2, 2)})["output"]

    assert ran.tolist() == forwarded.tolist() == [[count], [count]]
    assert torch.get_num_threads() == before
