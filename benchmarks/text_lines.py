"""Lines of text for PP-OCRv4's recognition, rendered in many fonts, sizes and colours, and what it reads in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["LINE_SHAPE", "decode", "render_crops"]

LINE_SHAPE = (1, 3, 48, 320)

_FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
_SYLLABLES = (
    "an", "ber", "co", "da", "el", "fo", "gra", "hi", "ist", "ju", "ka", "lo", "mon", "ne", "or", "pa", "qui", "ro",
    "st", "ta", "un", "vi", "wo", "xe", "yl", "zu", "th", "ing", "er", "ion",
)  # fmt: skip
_MARKS = (".", ",", ":", "!", "?", "-", "/", "%", "#", "")


def render_crops(count: int, seed: int) -> NDArray[np.float32]:
    """(count, 1, 3, 48, 320), prepared as PaddleOCR does: 48 pixels high, -1 to 1, zeros to the right.

    Words of syllables, numbers and marks; dark on light and light on dark, with gradients, blur and noise. The same
    seed gives the same lines on a machine with the same fonts (TrueType fonts in /usr/share/fonts, and pillow's own).
    """
    random = np.random.default_rng(seed)
    fonts = sorted(path for folder in _FOLDERS for path in folder.glob("**/*.ttf") if "Math" not in path.name)
    crops = np.zeros((count, *LINE_SHAPE), np.float32)
    for crop in crops:
        pixels = _line(_text(random), fonts, random)
        width = min(LINE_SHAPE[3], round(pixels.shape[1] * LINE_SHAPE[2] / pixels.shape[0]))
        crop[0, :, :, :width] = (_resized(pixels, width) / 127.5 - 1).transpose(2, 0, 1)
    return crops


def _text(random: np.random.Generator) -> str:
    words = []
    for _ in range(int(random.integers(1, 4))):
        if random.random() < 0.3:
            words.append(str(random.integers(0, 10 ** int(random.integers(1, 7)))))
            continue
        word = "".join(random.choice(_SYLLABLES, int(random.integers(1, 4))))
        words.append([word, word.capitalize(), word.upper()][int(random.integers(3))] + random.choice(_MARKS))
    return " ".join(words)


def _line(text: str, fonts: Sequence[Path], random: np.random.Generator) -> NDArray[np.float32]:
    """Pixels from 0 to 255, (height, width, 3)."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    size = int(random.integers(14, 64))
    chosen = int(random.integers(-1, len(fonts)))
    font = ImageFont.load_default(size) if chosen < 0 else ImageFont.truetype(str(fonts[chosen]), size)
    left, top, right, bottom = font.getbbox(text)
    margins = random.integers(2, 4 + size // 4, 4)
    width, height = int(right - left + margins[:2].sum()), int(bottom - top + margins[2:].sum())
    ink = Image.new("L", (width, height))
    ImageDraw.Draw(ink).text((margins[0] - left, margins[2] - top), text, fill=255, font=font)
    share = np.asarray(ink.filter(ImageFilter.GaussianBlur(random.uniform(0, size / 40))), np.float32)[..., None] / 255
    paper, colour = random.uniform(140, 255, 3), random.uniform(0, 90, 3)
    if random.random() < 0.35:
        paper, colour = colour, paper
    slope = np.linspace(-1, 1, width)[:, None] * random.uniform(-30, 30, 3)
    noise = random.normal(0, random.uniform(0, 12), (height, width, 3))
    return np.clip(paper + slope + (colour - paper) * share + noise, 0, 255).astype(np.float32)


def _resized(pixels: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    from PIL import Image

    image = Image.fromarray(pixels.astype(np.uint8)).resize((width, LINE_SHAPE[2]), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32)


def decode(probabilities: NDArray[np.float32], characters: Sequence[str]) -> str:
    """The text in (steps, characters): the likeliest of each step, repeats as one, without blanks."""
    best = probabilities.argmax(-1)
    changes = np.flatnonzero(np.diff(best, prepend=-1))
    return "".join(characters[index] for index in best[changes])
