"""Models larger than the memory given."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nograd.backends.eager import eager_backend
from nograd.errors import ConfigError, UnsupportedError
from nograd.transforms.memory import peak_bytes
from nograd.transforms.offload import offload
from tests.test_memory import bert, encoder

pytestmark = pytest.mark.usefixtures("small_heap")  # each run of a Watched block visits all objects


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def parameter_bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


WIDTH = 67
"""No other test has parameters of this width."""

seen: list[int] = []
"""For each run of a Watched block, the bytes of such blocks' parameters that were alive."""


class Watched(nn.Module):
    """A block that looks at what is in memory while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)
        self.norm = nn.BatchNorm1d(WIDTH, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        alive = [found for found in gc.get_objects() if type(found) is nn.Parameter and not found.is_meta]
        seen.append(sum(found.nbytes for found in alive if found.shape == (WIDTH, WIDTH)))
        return torch.tanh(self.norm(self.linear(x)))


BLOCK = WIDTH * WIDTH * 4


class Tower(nn.Module):
    """Watched blocks between a parameter of the root, and an embedding and a head of the same weight."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(WIDTH))
        self.embedding = nn.Embedding(10, WIDTH)
        self.blocks = nn.ModuleList(Watched() for _ in range(depth))
        self.head = nn.Linear(WIDTH, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids) + self.start
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(hidden)
        return logits


IDS = torch.tensor([1, 2, 3, 9])
SMALL = WIDTH * 4 + 10 * WIDTH * 4
"""Bytes of what is not in a block."""


@pytest.mark.parametrize("blocks", [1, 2, 4, 6])
def test_no_more_parameters_are_there_at_once_than_were_allowed_and_the_answers_are_equal(blocks: int, tmp_path: Path) -> None:
    model = Tower().eval()
    want = model(IDS).detach()
    budget = SMALL + blocks * BLOCK

    offloaded = offload(model, max_memory_bytes=budget, folder=tmp_path, device="cpu")
    del model
    gc.collect()
    seen.clear()
    answers = [offloaded(IDS) for _ in range(2)]

    assert all(torch.equal(answer, want) for answer in answers)
    assert len(seen) == 12
    assert max(seen) == blocks * BLOCK
    assert BLOCK <= offloaded.peak_resident_bytes <= budget


def test_every_kind_of_block_answers_as_it_did_attention_and_recurrence_too() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder()
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
            self.lstm = nn.LSTM(32, 32, batch_first=True)
            self.channels = nn.Conv1d(32, 8, 3).half().float()

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            hidden = self.encoder(x, src_key_padding_mask=mask)
            hidden = self.attention(hidden, hidden, hidden)[0]
            answer: Tensor = self.channels(self.lstm(hidden)[0].transpose(1, 2))
            return answer

    model = Mixed().eval()
    x, mask = torch.randn(3, 7, 32), torch.arange(7) >= torch.tensor([[7], [4], [5]])
    with torch.no_grad():
        want = model(x, mask)

    offloaded = offload(model, max_memory_bytes=40_000, device="cpu")

    assert torch.equal(offloaded(x, mask=mask), want)
    assert 0 < offloaded.peak_resident_bytes <= 40_000 < parameter_bytes(model) / 8


def test_a_transformer_answers_the_same_with_a_quarter_of_its_parameters_there() -> None:
    model = bert().eval()
    batch = {"input_ids": torch.randint(1, 100, (2, 16)), "attention_mask": torch.ones(2, 16, dtype=torch.int64)}
    with torch.no_grad():
        want = model(**batch)

    offloaded = offload(model, max_memory_bytes=parameter_bytes(model) // 4, device="cpu")
    got = offloaded(**batch)

    assert torch.equal(got.last_hidden_state, want.last_hidden_state)
    assert torch.equal(got.pooler_output, want.pooler_output)
    assert offloaded.peak_resident_bytes <= parameter_bytes(model) // 4


def test_the_callers_model_is_left_as_it_was_and_free_once_nobody_holds_it() -> None:
    model = Tower().train()
    state = copy.deepcopy(model.state_dict())

    offloaded = offload(model, max_memory_bytes=SMALL + BLOCK, device="cpu")
    offloaded(IDS)

    assert all(module.training and "forward" not in module.__dict__ for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    alive = [weakref.ref(parameter) for parameter in model.parameters()]
    del model
    gc.collect()
    assert [reference() for reference in alive] == [None] * 8


def test_with_memory_for_all_nothing_is_written_and_tied_weights_are_one(tmp_path: Path) -> None:
    model = Tower().eval()

    offloaded = offload(model, max_memory_bytes=parameter_bytes(model), folder=tmp_path, device="cpu")

    assert torch.equal(offloaded(IDS), model(IDS).detach())
    assert list(tmp_path.iterdir()) == []
    assert offloaded.resident_bytes == offloaded.peak_resident_bytes == parameter_bytes(model)


def test_the_files_are_safetensors_in_a_folder_that_goes_with_the_model(tmp_path: Path) -> None:
    offloaded = offload(Tower(), max_memory_bytes=SMALL + BLOCK, folder=tmp_path, device="cpu")
    (own,) = tmp_path.iterdir()

    assert {path.suffix for path in own.iterdir()} == {".safetensors"}
    del offloaded
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def on_meta(model: nn.Module) -> nn.Module:
    """What accelerate's `init_empty_weights` makes: parameters without values, tied ones one, buffers as built."""
    empty: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            empty.setdefault(parameter, nn.Parameter(parameter.detach().to("meta")))
            setattr(module, name, empty[parameter])
    return model


def saved(model: nn.Module, folder: Path) -> Path:
    save_file({name: value for name, value in model.state_dict().items() if name != "head.weight"}, folder / "m.safetensors")
    return folder


def test_a_model_on_meta_runs_from_a_folder_of_safetensors_and_takes_its_running_statistics_from_there(tmp_path: Path) -> None:
    model = Tower()
    model(torch.randint(10, (32,)))  # changes the running statistics of batch norm
    want = model.eval()(IDS).detach()

    offloaded = offload(on_meta(Tower()), max_memory_bytes=SMALL + BLOCK, folder=saved(model, tmp_path), device="cpu")

    assert torch.equal(offloaded(IDS), want)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_tensor_on_meta_that_the_folder_lacks_or_has_in_another_shape_is_an_error(tmp_path: Path) -> None:
    folder = saved(Tower(depth=2), tmp_path)

    with pytest.raises(
        ConfigError, match=r"'blocks.2.linear.weight' is on the meta device, and .* similar names: 'blocks.\d.linear"
    ):
        offload(on_meta(Tower(depth=3)), max_memory_bytes=SMALL + BLOCK, folder=folder, device="cpu")
    with pytest.raises(
        ConfigError, match="'weight' is on the meta device, and the safetensors files in None do not contain it"
    ):
        offload(nn.Linear(2, 2, device="meta"), max_memory_bytes=100, device="cpu")
    save_file({"weight": torch.ones(3, 3), "bias": torch.ones(2)}, tmp_path / "n.safetensors")
    with pytest.raises(ConfigError, match=r"'weight' is \[3, 3\] in .*n.safetensors; the model's is \[2, 2\]"):
        offload(nn.Linear(2, 2, device="meta"), max_memory_bytes=100, folder=tmp_path, device="cpu")


def test_a_block_larger_than_the_memory_given_is_named_with_its_bytes() -> None:
    needed = WIDTH * 4 + BLOCK
    message = (
        f"block 'blocks.0' has {BLOCK} bytes of parameters, and {WIDTH * 4} bytes more are needed permanently; "
        f"max_memory_bytes is 9999; it must be at least {needed}"
    )
    with pytest.raises(ConfigError, match=message):
        offload(Tower(), max_memory_bytes=9999, device="cpu")

    assert offload(Tower(), max_memory_bytes=needed, device="cpu")(IDS).shape == (4, 10)


def test_it_refuses_gradients_training_moving_and_saving_and_says_what_to_do() -> None:
    offloaded = offload(encoder(), max_memory_bytes=40_000, device="cpu")

    with pytest.raises(UnsupportedError, match=r"an input requires gradients; .* use MemoryEfficientModel"):
        offloaded(torch.ones(1, 2, 32, requires_grad=True))
    with pytest.raises(UnsupportedError, match="only runs in eval mode"):
        offloaded.train()
    with pytest.raises(UnsupportedError, match="pass the device, or a model of the dtype, to offload"):
        offloaded.half()
    with pytest.raises(UnsupportedError, match="save the model before"):
        offloaded.state_dict()
    assert offloaded.eval() is copy.deepcopy(offloaded) is offloaded


def test_a_model_with_a_replaced_forward_is_refused() -> None:
    model = Tower()
    model.head.forward = model.head.forward  # type: ignore[method-assign]

    with pytest.raises(UnsupportedError, match="module 'head' is a Linear whose forward was compiled or replaced"):
        offload(model, max_memory_bytes=10**6, device="cpu")


def test_a_backend_probes_and_runs_it_like_any_module() -> None:
    model = encoder().eval()
    x = torch.randn(3, 5, 32)

    backend = eager_backend(offload(model, max_memory_bytes=40_000, device="cpu"), [x], device="cpu")

    with torch.inference_mode():
        want = model(x)
    assert backend.signature.inputs[0].name == "src"
    assert torch.equal(torch.from_numpy(backend.run({"src": x.numpy()})["output"]), want)


def test_threads_take_turns_so_that_together_they_keep_to_the_memory_given() -> None:
    model = Tower().eval()
    want = model(IDS).detach()
    offloaded = offload(model, max_memory_bytes=SMALL + BLOCK, device="cpu")
    answers: list[Tensor] = []

    threads = [threading.Thread(target=lambda: answers.append(offloaded(IDS))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [torch.equal(answer, want) for answer in answers] == [True] * 3
    assert offloaded.peak_resident_bytes <= SMALL + BLOCK


def test_a_block_that_raises_gives_its_bytes_back() -> None:
    offloaded = offload(Tower(), max_memory_bytes=SMALL + BLOCK, device="cpu")
    before = offloaded.resident_bytes

    with pytest.raises(IndexError):
        offloaded(torch.tensor([99]))
    assert offloaded.resident_bytes == before
    assert offloaded(IDS).shape == (4, 10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False")
def test_on_a_gpu_the_allocator_sees_no_more_parameters_than_were_allowed() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(1024, 1024), nn.ReLU()) for _ in range(8))).eval()
    x = torch.randn(2, 1024, device="cuda")
    budget = 2 * parameter_bytes(model) // 8

    offloaded = offload(model, max_memory_bytes=budget, device="cuda")
    before = torch.cuda.memory_allocated()
    peak = peak_bytes(lambda: offloaded(x), device="cuda")

    assert before + peak <= budget + 2**24  # activations, and the workspace of cuBLAS
    assert torch.equal(offloaded(x), copy.deepcopy(model).cuda()(x))
