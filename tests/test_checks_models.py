"""Checks of models one by one: each on what fails it, and on what passes it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nograd import CostCurve, Predictor, Signature, TensorSpec
from nograd.backends.eager import eager_backend, unprobed_backend
from nograd.backends.modules import ModuleBackend
from nograd.checks import registry
from nograd.checks.memory import is_growth
from nograd.checks.subject import ModelSubject, TorchSubject, model_subject, torch_subject
from nograd.checks.timing import least_s
from nograd.report.verdict import Check, Verdict
from nograd.transforms.precision import HalfSupport
from tests import broken_models as broken
from tests.fakes import Fake, doubling
from tests.torch_models import MaskedMean

X = TensorSpec("x", "float32", (2,))
TOKENS = TensorSpec("ids", "int64", ("tokens",))


def named(check: str) -> Check[Any]:
    (found,) = [each for each in registry.EVERY if each.id == check]
    return found


def of_model(check: str, predictor: Predictor, **options: Any) -> Verdict:
    return named(check).run(model_subject(predictor, name="m", **options))


def inner(predictor: Predictor, **options: Any) -> TorchSubject:
    found = torch_subject(model_subject(predictor, name="m", **options))
    assert found is not None
    return found


def of_module(check: str, predictor: Predictor) -> Verdict:
    return named(check).run(inner(predictor))


def fake(function: Callable[[Any], Any], spec: TensorSpec = X, **signature: Any) -> Predictor:
    """A predictor over a backend that is a function of its only input; output `y`, of the same shape."""
    declared = Signature((spec,), (replace(spec, name="y", limits=None),), **signature)
    return Predictor(Fake(lambda batch: {"y": function(batch[spec.name])}, declared))


pytestmark = pytest.mark.usefixtures("small_heap")  # the check `memory.growth` collects garbage five times

SOUND = Predictor(doubling())

MODULE_CHECKS: dict[str, Callable[[], Predictor]] = {
    "mode.eval": broken.dropout_left_on,
    "mode.dropout": broken.dropout_left_on,
    "mode.batch_norm": broken.batch_norm_that_learns,
    "mode.random": broken.BROKEN["functional dropout in eval mode"].make,
    "gradients.graph": lambda: Predictor(broken.Linear().eval(), sample=broken.rows()),
    "gradients.answers": broken.BROKEN["gradients turned on in forward"].make,
    "gradients.buffers": broken.with_gradients,
    "devices.mixed": broken.BROKEN["a layer on the meta device"].make,
    "devices.dtypes": lambda: broken.predictor(broken.TwoDtypes(), broken.rows()),
    "devices.float64": lambda: broken.predictor(broken.Linear().double(), broken.rows()),
    "devices.float_ids": broken.BROKEN["ids as floating numbers"].make,
    "batching.inputs": broken.BROKEN["the input is written to"].make,
    "batching.answers": broken.BROKEN["the answer is overwritten by the next call"].make,
    "caching.stale": broken.BROKEN["weights in a plain list"].make,
    "precision.weights": broken.BROKEN["NaN in the weights"].make,
    "precision.denormals": broken.denormal,
    "precision.bfloat16": broken.BROKEN["rounding is amplified"].make,
    "precision.float16": broken.BROKEN["float16 overflows"].make,
    "optimisation.recompilations": lambda: broken.predictor(broken.LoopingOverRows(), broken.rows()),
    "optimisation.graph_breaks": lambda: broken.predictor(broken.Branching(), broken.rows()),
}
"""Check -> a model that it finds a fault in; it passes the sound one."""


@pytest.mark.parametrize("check", MODULE_CHECKS)
def test_a_check_of_modules_finds_its_fault_and_passes_a_sound_model(check: str) -> None:
    bad, good = of_module(check, MODULE_CHECKS[check]()), of_module(check, broken.sound())

    assert bad.severity in ("error", "warning", "info"), bad.evidence
    assert good.severity == "passed", good.evidence


def random_answers() -> Predictor:
    chance = np.random.default_rng(0)
    return fake(lambda x: x + chance.random(x.shape, np.float32))


def with_threads(count: int) -> Predictor:
    backend = broken.sound().backend
    assert isinstance(backend, ModuleBackend)
    return Predictor(backend.in_layout(1, count))


def depends_on_rows(x: Any) -> Any:
    return x * 2 if len(x) <= 4 else x * 3


def unprobed() -> Predictor:
    """A predictor whose backend knows names, dtypes and ranks only, as for a model that cannot be probed."""
    return Predictor(unprobed_backend(nn.Linear(8, 3), broken.rows()), sample=broken.rows())


MODEL_CHECKS: dict[str, tuple[Callable[[], Predictor], dict[str, Any]]] = {
    "batching.state": (random_answers, {}),
    "batching.rows": (lambda: fake(lambda x: x + x.sum(0)), {}),
    "batching.order": (lambda: fake(lambda x: x + np.arange(len(x), dtype=np.float32)[:, None]), {}),
    "batching.sizes": (lambda: broken.predictor(broken.TwoRowsOnly(), broken.rows(2)), {}),
    "batching.cap": (lambda: fake(depends_on_rows), {}),
    "caching.key": (lambda: SOUND, {}),
    "caching.repeatable": (random_answers, {}),
    "precision.answers": (lambda: fake(lambda x: x / 0 * np.inf), {}),
    "precision.rounding": (broken.BROKEN["rounding is amplified"].make, {}),
    "errors.refusals": (unprobed, {}),
    "errors.nan": (broken.BROKEN["NaN of one row spreads"].make, {}),
    "errors.recovers": (broken.BROKEN["an error leaves a mark"].make, {}),
    "memory.headroom": (broken.sound, {"memory_bytes": 1}),
    "memory.growth": (broken.BROKEN["every call leaks"].make, {}),
    "optimisation.threads": (lambda: with_threads(2), {"cores": 0.5}),
}
"""Check -> a model that it finds a fault in, and options; it passes the sound one."""


@pytest.mark.filterwarnings("ignore:.*(divide|invalid value)")
@pytest.mark.parametrize("check", MODEL_CHECKS)
def test_a_check_of_models_finds_its_fault_and_passes_a_sound_model(check: str) -> None:
    make, options = MODEL_CHECKS[check]
    bad, good = of_model(check, make(), **options), of_model(check, broken.sound(), cores=64)

    assert bad.severity in ("error", "warning"), bad.evidence
    assert good.severity == "passed", good.evidence


def test_a_module_in_training_mode_without_layers_that_care_is_no_error_whatever_its_sample() -> None:
    for sample in (torch.zeros(2, 4), torch.ones(2, 4)):
        verdict = of_module("mode.eval", Predictor(nn.Linear(4, 3).train(), sample=sample))

        assert verdict.severity == "info", verdict.evidence


APART = {
    "batching.cost", "batching.padding", "devices.gpu", "errors.ids", "errors.items", "errors.lengths", "optimisation.backend",
    "precision.hardware", "precision.int8", "precision.saturation", "warmup.compilations", "warmup.first_call",
}  # fmt: skip
"""Checks that have tests of their own below, in which they find a fault, and none."""


def test_every_check_of_models_has_one_that_fails_it_and_one_that_passes() -> None:
    checks: tuple[Check[Any], ...] = (*registry.MODELS, *registry.MODULES, *registry.MODELS_LAST)

    assert {*MODULE_CHECKS, *MODEL_CHECKS, *APART} == {each.id for each in checks}


def test_the_least_of_three_runs_in_turn_is_taken() -> None:
    order: list[str] = []
    runs = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}

    found = least_s(runs, rounds=2, clock=ticking(*[4.0, 3.0, 5.0, 2.0, 2.0, 1.5], 9.0))

    assert found == {"a": 3.0, "b": 1.5}
    assert "".join(order) == "aaabbbaaabbb"


def test_rows_that_a_file_declares_independent_and_are_not_are_an_error() -> None:
    declared, known = fake(lambda x: x + x.sum(0)), fake(lambda x: x + x.sum(0), batching="alone")

    assert of_model("batching.rows", declared).severity == "error"
    assert of_model("batching.rows", known).severity == "warning"


def test_padding_that_changes_answers_is_found_whether_the_model_says_so_or_not() -> None:
    def mean(ids: Any) -> Any:
        return ids - ids.mean(1, keepdims=True).astype(np.int64)

    rows = {"ids": np.array([[1, 2, 9], [4, 5, 6]])}
    declared = Predictor(Fake(lambda batch: {"y": mean(batch["ids"])}, Signature((TOKENS,), (TOKENS_OUT,))), sample=rows)
    assert of_model("batching.padding", declared).severity == "error"
    assert of_model("batching.padding", broken.BROKEN["a mean over padding"].make()).severity == "warning"
    assert of_model("batching.padding", broken.sound_text()).severity == "passed"


class Pooled(nn.Module):
    """Images of any size, which nobody pads."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class OneSizeAndOneLess(nn.Module):
    """Images of 4 x 4 and of 4 x 3, which are flattened to the same number of features."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] not in ((4, 4), (4, 3)):
            raise ValueError("4 x 4 or 4 x 3")
        return x.mean((2, 3))


def test_images_of_other_sizes_are_no_fault_for_nobody_pads_them() -> None:
    images = torch.randn(2, 3, 4, 4)

    assert of_model("batching.padding", Predictor(Pooled(), sample=images)).severity == "info"
    assert of_model("batching.padding", Predictor(OneSizeAndOneLess(), sample=images)).severity == "info"


TOKENS_OUT = replace(TOKENS, name="y")


def ticking(*seconds: float) -> Callable[[], float]:
    """A clock on which each pair of looks is apart by the next of `seconds`, the last one for ever."""
    spent = itertools.chain(seconds, itertools.repeat(seconds[-1]))
    now, looks = 0.0, itertools.count()

    def clock() -> float:
        nonlocal now
        now += next(spent) if next(looks) % 2 else 0.0
        return now

    return clock


@pytest.mark.parametrize(
    ("measured_s", "severity"),
    [(0.010, "passed"), (0.0124, "passed"), (0.0126, "info"), (0.0199, "info"), (0.0201, "warning"), (0.004, "warning")],
)
def test_a_cost_curve_is_believed_within_a_quarter_and_refuted_beyond_twice(measured_s: float, severity: str) -> None:
    curve = CostCurve((1, 32), (0.010, 0.010))

    verdict = of_model("batching.cost", SOUND, curve=curve, clock=ticking(measured_s))

    assert verdict.severity == severity, verdict.evidence


def test_without_a_cost_curve_there_is_nothing_to_compare() -> None:
    assert of_model("batching.cost", SOUND).severity == "skipped"


def test_a_cost_curve_by_tokens_is_measured_by_tokens() -> None:
    curve = CostCurve((5, 160), (0.001, 0.032), unit="tokens")

    verdict = of_model("batching.cost", broken.sound_text(), curve=curve, clock=ticking(0.001, 0.001))

    assert "tokens" in verdict.evidence


@pytest.mark.parametrize(
    ("first_s", "later_s", "severity"),
    [(0.5, 0.5, "passed"), (0.09, 0.001, "passed"), (0.3, 0.001, "info"), (0.3, 0.2, "passed"), (2.0, 0.1, "warning")],
)
def test_a_first_call_is_a_finding_where_users_notice_and_noise_does_not_explain_it(
    first_s: float, later_s: float, severity: str
) -> None:
    verdict = of_model("warmup.first_call", SOUND, clock=ticking(first_s, later_s))

    assert verdict.severity == severity, verdict.evidence


def test_graphs_that_are_compiled_for_shapes_after_the_warm_up_are_counted() -> None:
    static: Any = torch.compile(broken.Linear(), backend="eager", dynamic=False)
    dynamic: Any = torch.compile(broken.Linear(), backend="eager", dynamic=True)

    predictors = [Predictor(module.eval(), sample=broken.rows()) for module in (static, dynamic)]
    torch.compiler.reset()  # the numbers of rows that the probe ran do not matter here
    bad, good = (of_model("warmup.compilations", predictor) for predictor in predictors)

    assert (bad.severity, bad.figures["late_compilations"]) == ("warning", 3)  # 3, 5 and 7 rows
    assert good.severity == "passed", good.evidence


def test_a_leak_is_found_that_fills_what_was_freed_before() -> None:
    holes = [bytes([index % 250]) * 16_384 for index in range(8_000)]
    kept = holes[::2]
    holes.clear()

    assert of_model("memory.growth", broken.BROKEN["every call leaks"].make()).severity == "error"
    assert len(kept) == 4_000


@pytest.mark.parametrize(
    ("sizes", "grows"),
    [
        ([0, 1, 2, 3, 4], False),
        ([0, 500_000, 1_000_000, 1_500_000, 2_000_000], True),
        ([0, 2_000_000, 2_000_000, 2_000_000, 2_000_000], False),
        ([0, 4_000_000, 4_100_000, 4_200_000, 4_300_000], False),
        ([5, 4, 3, 2, 1], False),
    ],
    ids=["bytes", "steady", "one step", "one step and a little", "shrinking"],
)
def test_memory_grows_where_each_quarter_adds_its_share(sizes: list[int], grows: bool) -> None:
    assert is_growth(sizes) is grows


def test_a_batch_that_nearly_fills_the_memory_left_is_a_warning() -> None:
    from nograd.checks.memory import _fits

    assert [_fits(needs, 1000, 32, 1).severity for needs in (800, 801, 1000, 1001)] == ["passed", "warning", "warning", "error"]


def test_a_batch_at_which_memory_runs_out_is_an_error() -> None:
    def run(x: Any) -> Any:
        if len(x) > 8:
            raise MemoryError("not enough memory")
        return x

    def raising(batch: Any) -> Any:
        try:
            return {"y": run(batch["x"])}
        except MemoryError as error:
            from nograd.errors import ModelError

            raise ModelError("the model raised MemoryError") from error

    predictor = Predictor(Fake(raising, Signature((X,), (replace(X, name="y"),))))

    assert of_model("memory.headroom", predictor).severity == "error"


def test_more_lanes_than_processors_are_oversubscription() -> None:
    model = broken.Linear().eval()
    many = eager_backend(model, [broken.rows()], lanes=8, num_threads=1)

    verdict = of_model("optimisation.threads", Predictor(many), cores=2)

    assert (verdict.severity, verdict.figures) == ("warning", {"threads": 1, "lanes": 8, "cores": 2})
    assert "OMP_NUM_THREADS=1" in verdict.remedy
    assert of_model("optimisation.threads", Predictor(many), cores=8).severity == "passed"
    assert of_model("optimisation.threads", SOUND).severity == "skipped"


@pytest.mark.parametrize(("saturates", "severity"), [(True, "info"), (False, "passed")])
def test_a_processor_that_loses_sums_of_bytes_is_told(saturates: bool, severity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("nograd.transforms.int8.saturates", lambda: saturates)

    assert of_model("precision.saturation", SOUND).severity == severity


@pytest.mark.parametrize(("is_fast", "severity"), [(False, "warning"), (True, "passed")])
def test_half_precision_that_the_processor_has_not_is_told(
    is_fast: bool, severity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    support = HalfSupport(is_fast=is_fast, reason="because")
    monkeypatch.setattr("nograd.transforms.precision.half_support", lambda *_: support)

    assert (
        of_module("precision.hardware", Predictor(broken.Linear().bfloat16().eval(), sample=broken.rows())).severity == severity
    )
    assert of_module("precision.hardware", broken.sound()).severity == "passed"


@pytest.mark.parametrize(("has_gpu", "severity"), [(True, "info"), (False, "skipped")])
def test_an_idle_gpu_is_told(has_gpu: bool, severity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = inner(broken.sound())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H100")

    assert named("devices.gpu").run(subject).severity == severity


def test_a_gpu_in_use_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = inner(broken.sound())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H100")
    monkeypatch.setattr(subject.backend, "device", "cuda:0")

    assert named("devices.gpu").run(subject).severity == "passed"


def test_weights_made_in_inference_mode_count_no_changes_and_are_told() -> None:
    assert of_module("caching.stale", broken.made_in_inference_mode()).severity == "warning"


def test_a_model_that_is_known_not_to_be_repeatable_is_no_fault_of_the_cache() -> None:
    assert of_model("caching.repeatable", broken.BROKEN["functional dropout in eval mode"].make()).severity == "info"


def lookup(ids: Any) -> Any:
    return np.arange(50)[ids] if (ids >= 0).all() else raise_index_error()


def raise_index_error() -> Any:
    from nograd.errors import ModelError

    raise ModelError("index out of range")


def guarded(ids: Any) -> Any:
    from nograd.errors import ModelError

    try:
        return lookup(ids)
    except IndexError as error:
        raise ModelError(str(error)) from error


def of_ids(spec: TensorSpec, function: Callable[[Any], Any]) -> Predictor:
    rows = {"ids": np.array([[3, 9], [2, 7]])}
    declared = Signature((spec,), (replace(spec, name="y", limits=None),))
    return Predictor(Fake(lambda batch: {"y": function(batch["ids"])}, declared), sample=rows)


@pytest.mark.parametrize(
    ("limits", "function", "severity"),
    [
        ((0, 49), guarded, "passed"),
        ((0, 99), guarded, "warning"),
        (None, guarded, "warning"),
        (None, lambda ids: ids % 50, "passed"),
    ],
    ids=["declared", "declared too wide", "not declared", "any id"],
)
def test_ids_out_of_range_are_refused_or_told(limits: Any, function: Any, severity: str) -> None:
    assert of_model("errors.ids", of_ids(replace(TOKENS, limits=limits), function)).severity == severity


def test_a_model_without_ids_has_none_to_try() -> None:
    assert of_model("errors.ids", SOUND).severity == "skipped"


@pytest.mark.parametrize(
    ("fails_at", "severity"),
    [(lambda size: False, "passed"), (lambda size: size == 3, "warning"), (lambda size: size < 2, "info")],
    ids=["none", "a longer one", "the shortest"],
)
def test_lengths_that_the_signature_allows_and_the_model_does_not_are_told(
    fails_at: Callable[[int], bool], severity: str
) -> None:
    predictor = of_ids(TOKENS, lambda ids: raise_index_error() if fails_at(ids.shape[1]) else ids)

    assert of_model("errors.lengths", predictor).severity == severity


def spelled(text: str) -> dict[str, Any]:
    ids = np.frombuffer(text.encode(), np.uint8).astype(np.int64) % 50
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def spelled_up_to_four(text: str) -> dict[str, Any]:
    if not text:
        raise ValueError("there is nothing to read")
    return {name: array[:4] for name, array in spelled(text).items()}


def long_texts_fail(batch: Any) -> Any:
    return raise_index_error() if batch["input_ids"].shape[1] > 100 else {"y": batch["input_ids"].astype(np.float32)}


def test_odd_texts_that_end_in_a_server_error_are_told() -> None:
    specs = tuple(TensorSpec(name, "int64", ("tokens",)) for name in ("input_ids", "attention_mask"))
    bad = Fake(long_texts_fail, Signature(specs, (TensorSpec("y", "float32", ("tokens",)),)))
    good = Predictor(MaskedMean().eval(), preprocess=spelled_up_to_four, sample=["good", "day"])

    verdict = of_model("errors.items", Predictor(bad, preprocess=spelled, sample=["hello", "day"]))

    assert verdict.severity == "warning"
    assert "20000 letters" in verdict.evidence
    assert of_model("errors.items", good).severity == "passed"
    assert of_model("errors.items", SOUND).severity == "skipped"


@pytest.fixture
def onnx_times(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    times = {"own": 2.0, "onnx": 1.0}
    monkeypatch.setattr("nograd.checks.optimisation.least_s", lambda runs, rounds, clock: times)
    return times


@pytest.mark.parametrize(("own_s", "severity"), [(1.31, "info"), (1.29, "passed"), (0.5, "passed")])
def test_a_backend_that_is_faster_by_a_third_is_named(own_s: float, severity: str, onnx_times: dict[str, float]) -> None:
    pytest.importorskip("onnxruntime")
    onnx_times["own"] = own_s

    verdict = of_module("optimisation.backend", broken.predictor(broken.Linear(), broken.rows()))

    assert verdict.severity == severity, verdict.evidence


def test_a_model_that_cannot_be_exported_is_told() -> None:
    pytest.importorskip("onnxruntime")

    verdict = of_module("optimisation.backend", Predictor(branching(), sample=torch.ones(2, 3)))

    assert (verdict.severity, verdict.evidence[:37]) == ("info", "the model cannot be exported to ONNX:")


def branching() -> nn.Module:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x - 1

    return Branching().eval()


def test_eight_bits_are_measured_against_eager() -> None:
    pytest.importorskip("onnxruntime")

    good = of_module("precision.int8", broken.predictor(broken.Linear(features=64), broken.rows(features=64)))
    bad = of_module("precision.int8", Predictor(branching(), sample=torch.ones(2, 3)))

    assert good.severity == "passed", good.evidence
    assert good.figures["min_cosine"] > 0.98  # type: ignore[operator]  # a number
    assert bad.severity == "info", bad.evidence


def test_what_cannot_be_looked_into_is_skipped_with_its_reason() -> None:
    assert torch_subject(model_subject(SOUND, name="m")) is None
    assert of_model("batching.padding", SOUND).severity == "skipped"
    assert isinstance(model_subject(SOUND, name="m"), ModelSubject)


def test_a_subject_leaves_the_module_as_it_was() -> None:
    predictor = broken.batch_norm_that_learns()
    subject = inner(predictor)
    before = {name: tensor.clone() for name, tensor in subject.module.state_dict().items()}

    for check in registry.MODULES:
        if not check.is_deep:
            check.run(subject)

    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.module.state_dict().items())
    assert subject.module.training
