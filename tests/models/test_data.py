"""The loaders: what they read, and what they say of missing and damaged files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from edgec.errors import EdgecError
from edgec.models.data.canvas import draw_canvases
from edgec.models.data.cifar10 import load_cifar10, load_cifar10_sample
from edgec.models.data.digits import enlarged_digits, load_digits
from edgec.models.data.fashion_mnist import load_fashion_mnist, read_idx
from edgec.models.data.keywords import MEAN, SILENCE, STD, load_keywords
from edgec.models.data.location import data_root
from edgec.models.data.speaking import Speaking, cepstra_of, spectrum_of, stretches
from edgec.models.data.text_lines import ALPHABET, render_lines


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    folder = tmp_path / "fashion_mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("t10k", 4)):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8))
    return tmp_path


def test_fashion_mnist(fashion: Path) -> None:
    training, test = load_fashion_mnist(fashion)
    assert training.pixels.shape == (6, 1, 28, 28)
    assert test.labels.tolist() == [0, 1, 2, 3]
    assert load_fashion_mnist(fashion / "fashion_mnist")[0].pixels.sum() == training.pixels.sum()


def test_fashion_mnist_is_missing(tmp_path: Path) -> None:
    with pytest.raises(EdgecError, match="the data set Fashion-MNIST is not there") as raised:
        load_fashion_mnist(tmp_path)
    assert str(tmp_path / "fashion_mnist" / "train-images-idx3-ubyte.gz") in str(raised.value.where)
    assert "--data DIR or EDGEC_DATA=DIR" in str(raised.value.fix)


def test_fashion_mnist_is_cut_short(fashion: Path) -> None:
    path = fashion / "fashion_mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(EdgecError, match=r"images-idx3-ubyte\.gz is damaged"):
        load_fashion_mnist(fashion)


def test_fashion_mnist_of_two_lengths(fashion: Path) -> None:
    write_idx(fashion / "fashion_mnist" / "train-labels-idx1-ubyte.gz", np.zeros(5, np.uint8))
    with pytest.raises(EdgecError, match=r"images of shape \(6, 28, 28\), labels of shape \(5,\)"):
        load_fashion_mnist(fashion)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no idx file"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 1, 0, 0, 0, 0]), "no idx file"),  # floats
        (bytes([0, 0, 8, 2, 0, 0, 0, 9]), "no idx file"),  # the second extent is missing
        (bytes([0, 0, 8, 1, 0, 0, 0, 9, 1, 2]), r"holds 2 bytes, its header says \[9\]"),
    ],
)
def test_idx_headers(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(EdgecError, match=reason):
        read_idx(path)


def test_cifar10_batches(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="CIFAR-10 is read from PNG files with pillow")
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar10"
    folder.mkdir()
    rows = rng.integers(0, 256, (3, 1024, 3), np.uint8)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        image_module.fromarray(rows).save(folder / f"{name}.png")
    (folder / "train_lables.json").write_text(json.dumps([1] * 15))
    (folder / "test_lables.json").write_text(json.dumps([9, 0, 3]))
    training, test = load_cifar10(tmp_path)
    assert training.pixels.shape == (15, 3, 32, 32)
    assert test.labels.tolist() == [9, 0, 3]
    # The row of an image, pixel 33 of its second line, the blue channel.
    assert test.pixels[2, 2, 1, 1] == rows[2, 33, 2]
    (folder / "test_lables.json").write_text("[9, 0]")
    with pytest.raises(EdgecError, match=r"test_lables.json is damaged: 2 labels for 3 images"):
        load_cifar10(tmp_path)
    (folder / "data_batch_2.png").write_bytes(b"\x89PNG no")
    with pytest.raises(EdgecError, match=r"data_batch_2.png is damaged"):
        load_cifar10(tmp_path)


def test_cifar10_sample(data_dir: Path) -> None:
    training, test = load_cifar10_sample(data_dir)
    assert (len(training), len(test)) == (1600, 400)
    assert test.labels.min() == 0
    assert test.labels.max() == 9


def test_damaged_sample(tmp_path: Path) -> None:
    (tmp_path / "cifar10_test2000.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(EdgecError, match=r"cifar10_test2000\.npz is damaged"):
        load_cifar10_sample(tmp_path)


def test_keywords_are_split_by_class(data_dir: Path) -> None:
    training, test = load_keywords(data_dir)
    assert len(training) + len(test) == 500
    share = np.bincount(test.labels, minlength=12) / np.bincount(
        np.concatenate([training.labels, test.labels]), minlength=12
    )
    assert ((share > 0.15) & (share < 0.25)).all()
    assert not {row.tobytes() for row in test.features} & {row.tobytes() for row in training.features}
    folds = [load_keywords(data_dir, fold)[1].features for fold in range(5)]
    assert sum(map(len, folds)) == 500
    assert 0.5 < training.features.std() < 2


def test_spectra_and_cepstra_are_inverse() -> None:
    cepstra = np.random.default_rng(0).standard_normal((3, 10))
    np.testing.assert_allclose(cepstra_of(spectrum_of(cepstra)), cepstra, atol=1e-12)
    # A louder recording changes the first coefficient alone.
    louder = cepstra_of(spectrum_of(cepstra) + 1.0) - cepstra
    assert (louder[:, 0] > 1).all()
    np.testing.assert_allclose(louder[:, 1:], 0, atol=1e-12)


def test_speaking_keeps_silence_and_shapes(data_dir: Path) -> None:
    training, _ = load_keywords(data_dir)
    speaking = Speaking(MEAN, STD, training.features[training.labels == SILENCE], SILENCE)
    batch = (training.features[:16], training.labels[:16])
    changed, labels = speaking(batch, np.random.default_rng(0))
    again, _ = speaking(batch, np.random.default_rng(0))
    assert changed.shape == batch[0].shape
    assert changed.dtype == np.float32
    np.testing.assert_array_equal(labels, batch[1])
    np.testing.assert_array_equal(changed, again)
    assert np.abs(changed - batch[0]).max() > 0.5


def test_hidden_stretches() -> None:
    masks = stretches(2000, 40, np.random.default_rng(0))
    widths = masks.sum(1)
    assert np.unique(widths).tolist() == list(range(9))
    # In one piece: from a first to a last place, all over the row.
    hidden = masks[widths > 0]
    assert (hidden.argmax(1) + hidden.sum(1) == 40 - hidden[:, ::-1].argmax(1)).all()
    assert hidden.any(0).all()


def test_enlarged_digits() -> None:
    large, small = enlarged_digits(3, 28)[0], load_digits()[0]
    assert large.pixels.shape == (1198, 3, 28, 28)
    middles = large.pixels[:, 0, 3:27:3, 3:27:3] / 255
    np.testing.assert_allclose(middles, small.images[:, 0], atol=1 / 255)


def test_canvases() -> None:
    digits = load_digits()[0]
    one, again, other = (draw_canvases(digits, 12, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.pixels, again.pixels)
    assert (one.pixels != other.pixels).any()
    there = one.objects[:, 0] > 0
    assert (there.sum((1, 2)) >= 1).all()
    # Every piece of ink lies in a box, and every box holds some.
    boxes = np.zeros(one.masks.shape, bool)
    for image, row, column in np.argwhere(there):
        _, x, y, width, height, label = one.objects[image, :, row, column]
        assert (int(y) // 8, int(x) // 8) == (row, column)
        assert 0 <= label < 10
        area = (
            image,
            slice(round(y - height / 2), round(y + height / 2)),
            slice(round(x - width / 2), round(x + width / 2)),
        )
        assert one.masks[area].any()
        boxes[area] = True
    assert not (one.masks.astype(bool) & ~boxes).any()


def test_text_lines() -> None:
    pytest.importorskip("PIL", reason="lines of text are rendered with pillow")
    one, again = render_lines(8, 3), render_lines(8, 3)
    np.testing.assert_array_equal(one.pixels, again.pixels)
    lengths = (one.targets >= 0).sum(1)
    assert ((lengths >= 3) & (lengths <= 8)).all()
    assert one.targets.max() <= len(ALPHABET)
    assert not (one.targets == 0).any()
    assert render_lines(8, 3, "ab", 4).targets.max() <= 2


def test_data_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGEC_DATA", raising=False)
    assert data_root() == Path("../shared/data")
    monkeypatch.setenv("EDGEC_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert data_root(tmp_path / "own") == tmp_path / "own"
