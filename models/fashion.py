"""Networks for grey images of 28×28 pixels, as Fashion-MNIST and MNIST have them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from edgec.engine import Tensor, nn
from edgec.engine.data.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToFloat
from edgec.models.blocks import ConvNormReLU
from edgec.models.data.digits import enlarged_digits
from edgec.models.data.fashion_mnist import load_fashion_mnist
from edgec.models.network import Network
from edgec.models.recipe import Recipe, Task, accuracy, classify, one_cycle, sgd

__all__ = ["FASHION_CNN_RECIPE", "LENET_RECIPE", "FashionCNN", "LeNet"]


class LeNet(Network):
    """Two convolutions of 5×5 with pools and two linear layers; 111,000 parameters.

    Source: LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition", section 2, with ReLU, maximum
    pools and twice the channels, as it is trained today.
    """

    input_shapes: ClassVar = {"image": (1, 1, 28, 28)}

    def __init__(self, classes: int = 10) -> None:
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(32 * 5 * 5, 120), nn.ReLU(), nn.Linear(120, classes)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, 1, 28, 28)."""
        return self.classifier(self.features(x))


class FashionCNN(Network):
    """Four convolutions with batch normalization and two pools; 38,000 parameters."""

    input_shapes: ClassVar = {"image": (1, 1, 28, 28)}

    def __init__(self, classes: int = 10) -> None:
        self.features = nn.Sequential(
            ConvNormReLU(1, 16), nn.MaxPool2d(2),
            ConvNormReLU(16, 32), ConvNormReLU(32, 32), nn.MaxPool2d(2),
            ConvNormReLU(32, 64), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64 * 3 * 3, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, 1, 28, 28)."""
        return self.classifier(self.features(x))


_PREPARE = Compose(ToFloat(), Normalize(0.286, 0.353))


def _task(folder: Path | None, quick: bool) -> Task:
    if quick:
        training, test = enlarged_digits()
        return Task(training.dataset(), test.dataset(), _PREPARE, _PREPARE, "bundled digits, enlarged to 28×28")
    training, test = load_fashion_mnist(folder)
    augment = Compose(RandomHorizontalFlip(), RandomCrop(padding=1), _PREPARE)
    return Task(training.dataset(), test.dataset(), augment, _PREPARE, f"Fashion-MNIST, {len(training)} images")


LENET_RECIPE = Recipe(
    network=LeNet, load=_task, data="Fashion-MNIST",
    loss=classify(), optimizer=sgd(0.05), schedule=one_cycle(),
    metric="accuracy", metrics=accuracy, expected=0.895,
    epochs=5, quick_epochs=4, batch_size=64, minutes=2,
)  # fmt: skip

FASHION_CNN_RECIPE = Recipe(
    network=FashionCNN, load=_task, data="Fashion-MNIST",
    loss=classify(label_smoothing=0.05), optimizer=sgd(0.1), schedule=one_cycle(),
    metric="accuracy", metrics=accuracy, expected=0.91,
    epochs=8, quick_epochs=4, batch_size=64, minutes=6,
)  # fmt: skip
