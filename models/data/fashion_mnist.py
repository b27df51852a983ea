"""Fashion-MNIST: 70,000 grey images of ten kinds of clothes, in the files of MNIST's format.

Source: Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms", MIT licence. MNIST itself has the same files and can be put in its place.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from edgec.models.data.images import Images
from edgec.models.data.location import damaged, data_file

__all__ = ["CLASSES", "load_fashion_mnist", "read_idx"]

CLASSES = (
    "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_SOURCE = "the four idx .gz files of Fashion-MNIST, as the Debian package dataset-fashion-mnist has them"
_UNSIGNED_BYTES = 0x08


def load_fashion_mnist(folder: Path | None = None) -> tuple[Images, Images]:
    """60,000 images (1, 28, 28) to train on and 10,000 to test on.

    Raises:
        EdgecError: A file is missing or damaged.
    """
    train, test = (_read(folder, part) for part in ("train", "t10k"))
    return train, test


def _read(folder: Path | None, part: str) -> Images:
    names = [f"fashion_mnist/{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    paths = [data_file(folder, name, title="Fashion-MNIST", source=_SOURCE) for name in names]
    pixels, labels = (read_idx(path) for path in paths)
    if pixels.shape[1:] != (28, 28) or labels.shape != pixels.shape[:1] or labels.max(initial=0) >= len(CLASSES):
        raise damaged(paths[0], f"images of shape {pixels.shape}, labels of shape {labels.shape}")
    return Images(pixels[:, None], labels.astype(np.int64))


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file of unsigned bytes: two zeros, type, rank, extents (big-endian), values.

    Raises:
        EdgecError: The file is damaged.
    """
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as err:
        raise damaged(path, err) from err
    rank = content[3] if len(content) > 3 else 0
    start = 4 + 4 * rank
    if content[:3] != bytes([0, 0, _UNSIGNED_BYTES]) or not rank or len(content) < start:
        raise damaged(path, "it is no idx file of bytes")
    shape = np.frombuffer(content, ">u4", rank, 4).astype(np.int64)
    if len(content) - start != int(shape.prod()):
        raise damaged(path, f"it holds {len(content) - start} bytes, its header says {shape.tolist()}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
