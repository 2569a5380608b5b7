"""Silero's voice detector in plain torch, its state an input and an output; 15 spoken clips with silence between them."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.zoo.case import Arrays, Case, in_batches, to_tensors
from benchmarks.zoo.sources import cached, debian_files, package_folder

__all__ = ["CONTEXT", "FRAME", "STATE", "silero", "silero_model"]

FRAME, CONTEXT, STATE = 512, 64, 128
"""Samples of one frame at 16 kHz, samples before it that the model sees too, and the size of each half of its state."""

CLIPS = 15


class Silero(nn.Module):
    """Probability of speech in a frame `x [rows, 576]`, given the state `h, c [rows, 128]`; and the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.stft = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        sizes = ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        self.encoder = nn.ModuleList(nn.Conv1d(one, other, 3, stride=stride, padding=1) for one, other, stride in sizes)
        self.cell = nn.LSTMCell(STATE, STATE)
        self.last = nn.Conv1d(STATE, 1, 1)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> dict[str, Tensor]:
        """Return `output [rows, 1]`, from 0 to 1, and the new `h` and `c`."""
        spectrum = self.stft(functional.pad(x, (0, 64), mode="reflect").unsqueeze(1))
        hidden = (spectrum[:, :129] ** 2 + spectrum[:, 129:] ** 2).sqrt()
        for layer in self.encoder:
            hidden = layer(hidden).relu()
        h, c = self.cell(hidden.squeeze(-1), (h, c))
        return {"output": self.last(h.unsqueeze(-1).relu()).sigmoid().squeeze(-1), "h": h, "c": c}


def silero() -> Case:
    """Return the detector; rows are frames, each with the state that the frames before it left."""
    model = silero_model()
    audio, is_speech = _audio()
    frames = _frames(model, audio)
    share = is_speech[: len(audio) // FRAME * FRAME].reshape(-1, FRAME).mean(1)
    return Case(
        name="silero-vad",
        model=model,
        sample=to_tensors(in_batches(frames, 4)[1]),
        batches=in_batches(frames, 32),
        single=in_batches(frames, 1)[:64],
        calibration=in_batches(_frames(model, audio[::-1].copy()), 32)[:8],
        accuracy=_Accuracy(share),
        reference=0.984,
        is_convolutional=True,
    )


def silero_model() -> Silero:
    """Return the trained detector, in eval mode, without its clips."""
    # The .safetensors beside it holds other weights than the program that everybody uses.
    program = torch.jit.load(str(_folder() / "silero_vad.jit"))  # type: ignore[no-untyped-call]
    theirs = program.state_dict()
    names = {
        "stft.weight": "stft.forward_basis_buffer",
        "last.weight": "decoder.decoder.2.weight",
        "last.bias": "decoder.decoder.2.bias",
    }
    names |= {f"encoder.{i}.{kind}": f"encoder.{i}.reparam_conv.{kind}" for i in range(4) for kind in ("weight", "bias")}
    names |= {f"cell.{kind}_{of}": f"decoder.rnn.{kind}_{of}" for kind in ("weight", "bias") for of in ("ih", "hh")}
    model = Silero()
    model.load_state_dict({ours: theirs[f"_model.{name}"] for ours, name in names.items()})
    return model.eval()


def _folder() -> Path:
    return package_folder("silero_vad", "--no-deps silero-vad==6.2.3") / "data"


def _audio() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return samples at 16 kHz, and 1 where they are of a clip, pauses within it included."""
    random = np.random.RandomState(0)
    audio: list[NDArray[np.float32]] = []
    speech: list[NDArray[np.float32]] = []
    for path in sorted(cached("asterisk", _download).glob("vm-*.wav"))[:CLIPS]:
        clip = _read(path)
        loud = np.flatnonzero(np.abs(clip) > 0.02)
        gap = random.randint(16_000, 32_000)
        if len(loud):
            clip = clip[loud[0] : loud[-1] + 1]
            audio += [clip, np.zeros(gap, np.float32)]
            speech += [np.ones(len(clip), np.float32), np.zeros(gap, np.float32)]
    return np.concatenate(audio), np.concatenate(speech)


def _download(folder: Path) -> None:
    """Fill a folder with the clips that begin with `vm-`."""
    with TemporaryDirectory() as temporary:
        for name, content in debian_files("asterisk-core-sounds-en-wav", Path(temporary)):
            path = Path(name)
            if path.parent.name == "en_US_f_Allison" and path.name.startswith("vm-"):
                (folder / path.name).write_bytes(content)


def _read(path: Path) -> NDArray[np.float32]:
    """Return a clip of 8 kHz at 16 kHz."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
    doubled = np.interp(np.arange(0, len(samples), 0.5), np.arange(len(samples)), samples)
    return np.asarray(doubled, np.float32)


def _frames(model: Silero, audio: NDArray[np.float32]) -> Arrays:
    """Return each frame with the state before it, as one long stream leaves it."""
    count = len(audio) // FRAME
    padded = torch.from_numpy(np.concatenate([np.zeros(CONTEXT, np.float32), audio]))
    h = c = torch.zeros(1, STATE)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.inference_mode():
        for start in range(0, count * FRAME, FRAME):
            x = padded[None, start : start + FRAME + CONTEXT]
            rows.append((x, h, c))
            answer = model(x, h, c)
            h, c = answer["h"], answer["c"]
    return {name: torch.cat(column).numpy() for name, column in zip(("x", "h", "c"), zip(*rows, strict=True), strict=True)}


class _Accuracy:
    """Share of frames, all of speech or all of silence, that are told right."""

    def __init__(self, speech_share: NDArray[np.float32]) -> None:
        self._is_clear = (speech_share > 0.95) | (speech_share < 0.05)
        self._is_speech = speech_share > 0.5

    def __call__(self, outputs: Sequence[Arrays]) -> float:
        told = np.concatenate([batch["output"][:, 0] for batch in outputs]) > 0.5
        return float((told == self._is_speech)[self._is_clear].mean())
