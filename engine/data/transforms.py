"""Augmentation of batches in NumPy, under the generator that the loader gives each batch.

A transform takes a batch (a tuple or a dict of arrays) and a generator, and gives a batch. Those of images change the
first item, or the one called `item`; images have the shape (n, ..., h, w), usually (n, c, h, w).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edgec.engine.arrays import Array, DTypeLike

__all__ = [
    "Compose", "Cutout", "GaussianNoise", "ImageTransform", "MixUp", "Normalize", "RandomCrop", "RandomHorizontalFlip",
    "RandomMask", "RandomShift", "ToFloat",
]  # fmt: skip

Arrays: TypeAlias = Any  # a tuple or a dict of arrays, or one array
Key: TypeAlias = int | str


class Compose:
    """Transforms one after the other."""

    def __init__(self, *transforms: Any) -> None:
        self.transforms = transforms

    def __call__(self, batch: Arrays, random: np.random.Generator) -> Arrays:
        for transform in self.transforms:
            batch = transform(batch, random)
        return batch


class ImageTransform:
    """Base: a subclass gives `apply` for the images; the rest of the batch stays as it is."""

    def __init__(self, item: Key = 0) -> None:
        self.item = item

    def apply(self, images: Array, random: np.random.Generator) -> Array:
        raise NotImplementedError

    def __call__(self, batch: Arrays, random: np.random.Generator) -> Arrays:
        if isinstance(batch, np.ndarray):
            return self.apply(batch, random)
        if isinstance(batch, Mapping):
            return {key: self.apply(value, random) if key == self.item else value for key, value in batch.items()}
        return tuple(self.apply(value, random) if place == self.item else value for place, value in enumerate(batch))


class ToFloat(ImageTransform):
    """Integers from 0 to `highest` become floats from 0 to 1."""

    def __init__(self, highest: float = 255.0, dtype: DTypeLike = np.float32, item: Key = 0) -> None:
        super().__init__(item)
        self.highest, self.dtype = highest, np.dtype(dtype)

    def apply(self, images: Array, random: np.random.Generator) -> Array:  # noqa: ARG002
        return np.asarray(images.astype(self.dtype) / np.asarray(self.highest, self.dtype))


class Normalize(ImageTransform):
    """Subtract a mean and divide by a deviation: one number each, or one per channel (axis 1)."""

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float], item: Key = 0) -> None:
        super().__init__(item)
        self.mean, self.std = np.atleast_1d(mean), np.atleast_1d(std)

    def apply(self, images: Array, random: np.random.Generator) -> Array:  # noqa: ARG002
        shape = (-1, *(1,) * (images.ndim - 2))
        mean, std = (values.astype(images.dtype).reshape(shape) for values in (self.mean, self.std))
        return np.asarray((images - mean) / std)


class RandomCrop(ImageTransform):
    """Another window of `size` in each image, after padding its borders; `size` None is the image's own.

    Args:
        size: Height and width, one number for both.
        padding: Pixels around the image, one number, or vertical and horizontal.
        mode: What the padding holds: zeros, or the image mirrored at its border.
        item: Which item of the batch holds the images.
    """

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        mode: Literal["constant", "reflect", "edge"] = "constant",
        item: Key = 0,
    ) -> None:
        super().__init__(item)
        self.size = (size, size) if isinstance(size, int) else size
        self.padding = (padding, padding) if isinstance(padding, int) else padding
        self.mode: Literal["constant", "reflect", "edge"] = mode

    def apply(self, images: Array, random: np.random.Generator) -> Array:
        height, width = self.size or images.shape[-2:]
        around = [(0, 0)] * (images.ndim - 2) + [(size, size) for size in self.padding]
        padded = np.pad(images, around, mode=self.mode)
        windows = sliding_window_view(padded, (height, width), axis=(-2, -1))
        count, free = len(images), windows.shape[-4:-2]
        y, x = (random.integers(0, size, count) for size in free)
        # The windows lie on axes -4 and -3; indexed together with the first, they leave (n, ..., h, w).
        index: tuple[Any, ...] = (np.arange(count), *[slice(None)] * (images.ndim - 3), y, x)
        return np.ascontiguousarray(windows[index])


class RandomShift(RandomCrop):
    """Each image moved by up to `pixels` (one number, or vertical and horizontal); zeros come in."""

    def __init__(self, pixels: int | tuple[int, int], item: Key = 0) -> None:
        super().__init__(None, pixels, "constant", item)


class RandomHorizontalFlip(ImageTransform):
    """Mirror a share `p` of the images left to right."""

    def __init__(self, p: float = 0.5, item: Key = 0) -> None:
        super().__init__(item)
        self.p = p

    def apply(self, images: Array, random: np.random.Generator) -> Array:
        is_flipped = random.random(len(images)) < self.p
        return np.where(is_flipped.reshape(-1, *(1,) * (images.ndim - 1)), images[..., ::-1], images)


class Cutout(ImageTransform):
    """A square of zeros somewhere in each image, partly outside at times. Source: DeVries and Taylor 2017."""

    def __init__(self, size: int, item: Key = 0) -> None:
        super().__init__(item)
        self.size = size

    def apply(self, images: Array, random: np.random.Generator) -> Array:
        inside = []
        for length in images.shape[-2:]:
            start = random.integers(0, length, (len(images), 1)) - self.size // 2
            places = np.arange(length)
            inside.append((places >= start) & (places < start + self.size))
        hole = (inside[0][:, :, None] & inside[1][:, None, :]).reshape(
            len(images), *(1,) * (images.ndim - 3), *images.shape[-2:]
        )
        return np.where(hole, images.dtype.type(0), images)


class RandomMask(ImageTransform):
    """A band of up to `width` zeros across one axis of each image: time or frequency of a spectrogram.

    Source: Park et al. 2019 (SpecAugment), section 2.
    """

    def __init__(self, axis: int, width: int, item: Key = 0) -> None:
        super().__init__(item)
        self.axis, self.width = axis, width

    def apply(self, images: Array, random: np.random.Generator) -> Array:
        axis, length = self.axis % images.ndim, images.shape[self.axis]
        width = random.integers(0, self.width + 1, (len(images), 1))
        start = (random.random((len(images), 1)) * (length - width + 1)).astype(np.int64)
        places = np.arange(length)
        band = (places >= start) & (places < start + width)
        shape = [len(images), *(1,) * (images.ndim - 1)]
        shape[axis] = length
        return np.where(band.reshape(shape), images.dtype.type(0), images)


class GaussianNoise(ImageTransform):
    """Independent normal noise on every value."""

    def __init__(self, std: float, item: Key = 0) -> None:
        super().__init__(item)
        self.std = std

    def apply(self, images: Array, random: np.random.Generator) -> Array:
        return np.asarray(images + (self.std * random.standard_normal(images.shape)).astype(images.dtype))


class MixUp:
    """Each image mixed with another of the batch, and its label likewise, as probabilities.

    Args:
        classes: Number of classes, to make class numbers probabilities.
        alpha: Of the beta distribution that the share is drawn from.
        images: Which item of the batch holds the images.
        labels: Which item holds the labels: class numbers (n), or probabilities (n, classes).

    Source: Zhang et al. 2018, eq. 1.
    """

    def __init__(self, classes: int, alpha: float = 0.2, images: Key = 0, labels: Key = 1) -> None:
        self.classes, self.alpha, self.images, self.labels = classes, alpha, images, labels

    def __call__(self, batch: Arrays, random: np.random.Generator) -> Arrays:
        parts = dict(batch) if isinstance(batch, Mapping) else dict(enumerate(batch))
        images, labels = parts[self.images], parts[self.labels]
        if labels.ndim == 1:
            labels = np.eye(self.classes, dtype=images.dtype)[labels]
        share = random.beta(self.alpha, self.alpha, len(images)).astype(images.dtype)
        other = random.permutation(len(images))
        for key, values in ((self.images, images), (self.labels, labels)):
            mine = share.reshape(-1, *(1,) * (values.ndim - 1))
            parts[key] = mine * values + (1 - mine) * values[other]
        return parts if isinstance(batch, Mapping) else tuple(parts.values())
