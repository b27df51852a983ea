"""Handwritten digits: the data bundled with edgec, a small convolutional network and the recipe that trains it.

The data are the 1,797 images (8×8, grey levels 0 to 16) of the test part of "Optical Recognition of Handwritten
Digits", E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, CC BY 4.0 (doi 10.24432/C50P49).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

import numpy as np

from edgec.engine import Tensor, nn, no_grad, optim, seed, tensor
from edgec.engine.data import DataLoader, TensorDataset

__all__ = ["Digits", "DigitsCNN", "accuracy", "load_digits", "train"]


@dataclass(frozen=True)
class Digits:
    """Images, float32 (N, 1, 8, 8) in [0, 1], and labels, int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def load_digits() -> tuple[Digits, Digits]:
    """The first two thirds of the data to train on, and the last third, other writers mostly, to test on."""
    with (resources.files("edgec.models") / "digits.npz").open("rb") as stream, np.load(stream) as file:
        images = (file["images"].astype(np.float32) / 16)[:, None]
        labels = file["labels"].astype(np.int64)
    split = len(labels) * 2 // 3
    return Digits(images[:split], labels[:split]), Digits(images[split:], labels[split:])


class DigitsCNN(nn.Module):
    """Three convolutions with batch normalization, one pool and a linear layer; about 26,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(1, 16),
            *_block(16, 32),
            nn.MaxPool2d(2),
            *_block(32, 64),
            nn.AdaptiveAvgPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64 * 4, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 1, 8, 8)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


def _block(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def train(
    epochs: int = 30, *, random_seed: int = 0, progress: Callable[[int, int, float], None] | None = None
) -> DigitsCNN:
    """Train the network on the training part; about 15 seconds on one core.

    Args:
        epochs: Passes over the data.
        random_seed: The same seed gives the same network.
        progress: Called after every epoch with its number, the number of all and the mean loss.
    """
    seed(random_seed)
    rng = np.random.default_rng(random_seed)
    data, _ = load_digits()
    model = DigitsCNN()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = optim.CosineAnnealingLR(optimizer, T_max=epochs)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    loader = DataLoader(TensorDataset(data.images, data.labels), batch_size=64, shuffle=True, seed=random_seed)
    model.train()
    for epoch in range(epochs):
        losses = []
        for images, labels in loader:
            loss = loss_of(model(tensor(_shifted(images.numpy(), rng))), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        if progress is not None:
            progress(epoch + 1, epochs, float(np.mean(losses)))
    model.eval()
    return model


def _shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image moved by up to one pixel: writers do not centre."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    offsets = rng.integers(0, 3, (len(images), 2))
    return np.stack([image[:, y : y + 8, x : x + 8] for image, (y, x) in zip(padded, offsets, strict=True)])


def accuracy(model: nn.Module, data: Digits) -> float:
    """Share of the images whose class the model finds, in [0, 1]."""
    with no_grad():
        logits = model(tensor(data.images)).numpy()
    return float((logits.argmax(axis=1) == data.labels).mean())
