"""scikit-learn's digits, 8x8: a small MLP and a small conv net, trained here in seconds; 540 held out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.zoo.case import Arrays, Case, class_accuracy, in_batches, to_tensors
from benchmarks.zoo.sources import installed, trained

__all__ = ["digits_cnn", "digits_mlp"]


def digits_mlp() -> Case:
    """Return the MLP 64-128-64-10; input `[rows, 64]`, 0 to 1."""
    return _case("digits-mlp", _mlp, (64,), epochs=60, reference=0.974, is_convolutional=False)


def digits_cnn() -> Case:
    """Return two convolutions with BatchNorm and a linear layer; input `[rows, 1, 8, 8]`, 0 to 1."""
    return _case("digits-cnn", _cnn, (1, 8, 8), epochs=12, reference=0.987, is_convolutional=True)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def _cnn() -> nn.Module:
    first = (nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    second = (nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(64 * 4 * 4, 10))


def _case(
    name: str, make: Callable[[], nn.Module], shape: tuple[int, ...], *, epochs: int, reference: float, is_convolutional: bool
) -> Case:
    train_x, test_x, train_y, test_y = _split()
    train_x, test_x = train_x.reshape(-1, *shape), test_x.reshape(-1, *shape)
    model = make().eval()
    model.load_state_dict(trained(name, partial(_train, make, train_x, train_y, epochs)))
    held_out: Arrays = {"input": test_x.numpy()}
    unlabelled: Arrays = {"input": train_x[:256].numpy()}
    return Case(
        name=name,
        model=model,
        sample=to_tensors(in_batches(unlabelled, 4)[0]),
        batches=in_batches(held_out, 32),
        single=in_batches(held_out, 1)[:64],
        calibration=in_batches(unlabelled, 32),
        accuracy=class_accuracy([[label] for label in test_y.tolist()]),
        reference=reference,
        is_convolutional=is_convolutional,
    )


def _split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images, held-out images `[rows, 64]`, training labels, held-out labels `[rows]`; no image is in both parts."""
    digits = installed("sklearn.datasets", "scikit-learn").load_digits()
    split = installed("sklearn.model_selection", "scikit-learn").train_test_split
    images = (digits.data / 16).astype(np.float32)
    parts = split(images, digits.target, test_size=0.3, random_state=0, stratify=digits.target)
    train_x, test_x, train_y, test_y = map(torch.from_numpy, parts)
    return train_x, test_x, train_y, test_y


def _train(make: Callable[[], nn.Module], x: Tensor, y: Tensor, epochs: int) -> dict[str, Tensor]:
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.state_dict()
