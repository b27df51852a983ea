"""Pictures made of handwritten digits: one to three of them, of several sizes, on a noisy canvas with stray lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgec.models.data.digits import Digits

__all__ = ["CELL", "CLASSES", "SIZE", "Canvases", "draw_canvases"]

SIZE = 48
CELL = 8
CLASSES = 10
_CELLS = SIZE // CELL
_LEAST_INK = 0.3


@dataclass(frozen=True)
class Canvases:
    """Pictures, and what is in them.

    Attributes:
        pixels: uint8 (N, 1, 48, 48).
        masks: int64 (N, 48, 48), 1 where the ink of a digit is.
        objects: float32 (N, 6, 6, 6): for each cell of 8×8 pixels that holds the centre of a digit 1, the box (centre
            x and y, width and height in pixels) and the class; zeros for the others.
    """

    pixels: np.ndarray
    masks: np.ndarray
    objects: np.ndarray


def draw_canvases(digits: Digits, count: int, seed: int) -> Canvases:
    """As many pictures of digits out of `digits`; the same seed gives the same ones."""
    random = np.random.default_rng(seed)
    ink = np.zeros((count, SIZE, SIZE), np.float32)
    objects = np.zeros((count, 6, _CELLS, _CELLS), np.float32)
    for index in range(count):
        for _ in range(int(random.integers(1, 4))):
            _place(ink[index], objects[index], digits, random)
    masks = ink > _LEAST_INK
    _draw_lines(ink, random)
    background = random.uniform(0.0, 0.35, (count, 1, 1)).astype(np.float32)
    contrast = random.uniform(0.6, 1.0, (count, 1, 1)).astype(np.float32)
    noise = (0.08 * random.standard_normal(ink.shape)).astype(np.float32)
    pixels = np.clip(background + (1 - background) * contrast * ink + noise, 0, 1)
    return Canvases((pixels * 255).astype(np.uint8)[:, None], masks.astype(np.int64), objects)


def _place(ink: np.ndarray, objects: np.ndarray, digits: Digits, random: np.random.Generator) -> None:
    """Put a digit where it overlaps none; it is left out if there is no room."""
    chosen = int(random.integers(len(digits)))
    scale = int(random.integers(1, 4))
    image = digits.images[chosen, 0].repeat(scale, 0).repeat(scale, 1)
    rows, columns = (np.flatnonzero((image > _LEAST_INK).any(axis)) for axis in (1, 0))
    image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = image.shape
    for _ in range(10):
        y, x = int(random.integers(SIZE - height + 1)), int(random.integers(SIZE - width + 1))
        centre_x, centre_y = x + width / 2, y + height / 2
        cell = objects[:, min(int(centre_y) // CELL, _CELLS - 1), min(int(centre_x) // CELL, _CELLS - 1)]
        around = ink[max(y - 1, 0) : y + height + 1, max(x - 1, 0) : x + width + 1]
        if not cell[0] and not around.any():
            ink[y : y + height, x : x + width] = image
            cell[:] = (1, centre_x, centre_y, width, height, digits.labels[chosen])
            return


def _draw_lines(ink: np.ndarray, random: np.random.Generator) -> None:
    """A straight line across each picture, fainter than most ink."""
    steps = np.linspace(0, 1, 2 * SIZE)
    for picture in ink:
        (y0, x0), (y1, x1) = random.uniform(0, SIZE - 1, (2, 2))
        rows, columns = ((a + (b - a) * steps).astype(np.int64) for a, b in ((y0, y1), (x0, x1)))
        picture[rows, columns] = np.maximum(picture[rows, columns], random.uniform(0.3, 0.6))
