"""Rendered lines of text: random words in pillow's own font, moved, scaled and noisy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgec.errors import EdgecError

__all__ = ["ALPHABET", "BLANK", "HEIGHT", "LONGEST", "WIDTH", "TextLines", "render_lines"]

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
BLANK = 0
HEIGHT, WIDTH = 32, 128
LONGEST = 8
_SIZES = range(16, 25)


@dataclass(frozen=True)
class TextLines:
    """Pictures and what they say.

    Attributes:
        pixels: uint8 (N, 1, 32, 128), dark on light or light on dark.
        targets: int64 (N, 8): place of each character in the alphabet, from 1, padded with -1.
    """

    pixels: np.ndarray
    targets: np.ndarray


def render_lines(count: int, seed: int, alphabet: str = ALPHABET, longest: int = LONGEST) -> TextLines:
    """As many lines of three to `longest` characters; the same seed gives the same ones.

    Raises:
        EdgecError: Pillow is missing, or has no font of its own.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont

        fonts = {size: ImageFont.load_default(size) for size in _SIZES}
    except (ImportError, OSError) as err:
        raise EdgecError(
            "lines of text are rendered with pillow and its own font",
            where=str(err),
            fix="pip install 'edgec[train]'",
        ) from err
    random = np.random.default_rng(seed)
    pixels = np.empty((count, 1, HEIGHT, WIDTH), np.uint8)
    targets = np.full((count, LONGEST), -1, np.int64)
    for index in range(count):
        length = int(random.integers(3, longest + 1))
        targets[index, :length] = random.integers(1, len(alphabet) + 1, length)
        text = "".join(alphabet[place - 1] for place in targets[index, :length])
        font = fonts[int(random.choice(_SIZES))]
        image = Image.new("L", (WIDTH, HEIGHT))
        draw = ImageDraw.Draw(image)
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        x = random.uniform(1, max(WIDTH - (right - left) - 1, 2)) - left
        y = random.uniform(1, max(HEIGHT - (bottom - top) - 1, 2)) - top
        draw.text((x, y), text, fill=255, font=font)
        pixels[index, 0] = _as_photographed(np.asarray(image, np.float32) / 255, random)
    return TextLines(pixels, targets)


def _as_photographed(ink: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Ink on paper of other brightness, with noise."""
    paper = random.uniform(0.55, 1.0)
    dark = random.uniform(0.0, 0.35)
    picture = paper + (dark - paper) * ink
    if random.random() < 0.5:
        picture = 1 - picture
    noise = random.uniform(0.0, 0.08) * random.standard_normal(ink.shape)
    return np.asarray(np.clip(picture + noise, 0, 1) * 255, np.float64).astype(np.uint8)
