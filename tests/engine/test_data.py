"""Datasets, loader (order, threads, failures) and transforms."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from edgec.engine import Tensor, seed
from edgec.engine.data import ConcatDataset, DataLoader, DatasetError, Subset, TensorDataset, random_split, transforms
from edgec.engine.data.loader import collate


class Slow:
    """Samples that are dicts, and take a moment, so that threads finish out of order."""

    def __init__(self, count: int, broken: int | None = None) -> None:
        self.count, self.broken, self.read = count, broken, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        time.sleep(0.002 if index % 7 == 0 else 0.0)
        self.read += 1
        if index == self.broken:
            raise OSError("truncated file")
        return {"x": np.full((2, 3), index, np.float32), "label": index}


def numbers(loader: DataLoader) -> list[list[int]]:
    return [batch["label"].numpy().tolist() for batch in loader]


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgec-loader")]


# --- datasets ---


def test_parts_of_datasets() -> None:
    data = TensorDataset(np.arange(10), np.arange(10) * 2.0)
    joined = ConcatDataset([Subset(data, [3, 1]), data, Subset(data, [])])
    assert len(joined) == 12
    assert [int(joined[index][0]) for index in (0, 1, 2, 11, -1, -12)] == [3, 1, 0, 9, 9, 3]
    with pytest.raises(IndexError, match="index 12 of 12"):
        joined[12]
    with pytest.raises(IndexError, match="outside"):
        Subset(data, [10])
    (x, y) = next(iter(DataLoader(Subset(Subset(data, [9, 7, 5]), [2, 0]), 4)))
    assert x.numpy().tolist() == [5, 9]
    assert y.numpy().tolist() == [10.0, 18.0]


def test_random_split_covers_everything_once() -> None:
    data = TensorDataset(np.arange(11))
    parts = random_split(data, [0.5, 0.3, 0.2], seed=1)
    assert [len(part) for part in parts] == [6, 3, 2]
    taken = np.concatenate([part.indices for part in parts])
    assert sorted(taken.tolist()) == list(range(11))
    assert random_split(data, [4, 7], seed=1)[0].indices.tolist() == taken[:4].tolist()
    with pytest.raises(ValueError, match="add up to 10"):
        random_split(data, [4, 6])
    with pytest.raises(ValueError, match="add up to 1"):
        random_split(data, [0.5, 0.4])


# --- loader ---


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_and_augmentation_do_not_depend_on_threads(workers: int) -> None:
    noise = transforms.GaussianNoise(1.0, item="x")
    loader = DataLoader(Slow(50), 8, shuffle=True, seed=4, transform=noise, workers=workers)
    plain = DataLoader(Slow(50), 8, shuffle=True, seed=4, transform=noise)
    passes = []
    for _ in range(2):
        batches, expected = list(loader), list(plain)
        assert len(batches) == len(expected) == len(loader) == 7
        for batch, other in zip(batches, expected, strict=True):
            np.testing.assert_array_equal(batch["label"].data, other["label"].data)
            np.testing.assert_array_equal(batch["x"].data, other["x"].data)
            assert isinstance(batch["x"], Tensor)
        passes.append(np.concatenate([batch["label"].data for batch in batches]).tolist())
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(50))
    assert passes[0] != passes[1]
    assert loader_threads() == []


def test_state_continues_with_the_next_pass() -> None:
    loader, other = (DataLoader(Slow(20), 6, shuffle=True, seed=1) for _ in range(2))
    first, second = numbers(loader), numbers(loader)
    assert first != second
    other.load_state_dict({"passes": 1})
    assert numbers(other) == second
    assert other.state_dict() == loader.state_dict() == {"passes": 2}


def test_without_a_seed_the_engine_decides() -> None:
    loader = DataLoader(Slow(20), 6, shuffle=True)
    seed(3)
    first, second = numbers(loader), numbers(loader)
    assert first != second
    seed(3)
    loader.load_state_dict({"passes": 0})
    assert numbers(loader) == first


@pytest.mark.parametrize("workers", [0, 2])
def test_failure_names_the_sample(workers: int) -> None:
    loader = DataLoader(Slow(30, broken=17), 4, workers=workers)
    seen = []
    with pytest.raises(DatasetError, match="sample 17 could not be read: OSError: truncated file") as caught:
        for batch in loader:
            seen.extend(batch["label"].numpy().tolist())
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.fix == "see what dataset[17] does"
    assert seen == list(range(16))
    assert loader_threads() == []


def test_leaving_early_ends_the_threads() -> None:
    data = Slow(1000)
    for batch in DataLoader(data, 10, workers=3):
        assert batch["label"].shape == (10,)
        break
    assert loader_threads() == []
    assert data.read < 200  # what was under way, not everything

    def interrupted() -> None:
        for _ in DataLoader(Slow(1000), 10, workers=2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert loader_threads() == []


def test_workers_read_ahead_but_not_too_far() -> None:
    data = Slow(400)
    batches = iter(DataLoader(data, 10, workers=2, prefetch=2))
    next(batches)
    deadline = time.monotonic() + 5
    while data.read < 40 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert data.read == 40
    del batches


def test_collate_keeps_the_structure() -> None:
    x, y = collate([(np.zeros(2), 1), (np.ones(2), 2)])
    assert (x.shape, y.tolist(), y.dtype) == ((2, 2), [1, 2], np.int64)
    assert collate([1.0, 2.0]).dtype == np.float32
    assert collate([Tensor(np.ones(3)), Tensor(np.ones(3))]).shape == (2, 3)
    assert collate([{"a": 1}, {"a": 2}])["a"].tolist() == [1, 2]
    with pytest.raises(DatasetError, match="do not fit together"):
        collate([np.zeros(2), np.zeros(3)])
    with pytest.raises(DatasetError, match="different keys"):
        collate([{"a": 1}, {"b": 2}])
    with pytest.raises(DatasetError, match="do not fit together"):
        collate([(1, 2), (1,)])
    own = DataLoader(Slow(4), 2, collate=lambda samples: np.array([len(samples)]))
    assert [batch.numpy().tolist() for batch in own] == [[2], [2]]


def test_settings_are_checked() -> None:
    for settings in ({"batch_size": 0}, {"workers": -1}, {"prefetch": 0}):
        with pytest.raises(ValueError, match="positive"):
            DataLoader(Slow(3), **settings)


# --- transforms ---


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_crops_are_windows_of_the_padded_image() -> None:
    x = images(40, 3, 6, 5)
    y, label = transforms.RandomCrop(padding=2)((x, np.arange(40)), np.random.default_rng(1))
    assert y.shape == x.shape
    assert label.tolist() == list(range(40))
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    found = set()
    for image, made in zip(padded, y, strict=True):
        places = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if np.array_equal(image[:, top : top + 6, left : left + 5], made)
        ]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) > 12
    small = transforms.RandomCrop((2, 3), mode="reflect", padding=(1, 0))(x, np.random.default_rng(1))
    assert small.shape == (40, 3, 2, 3)
    grey = transforms.RandomShift((0, 1))(x[:, 0], np.random.default_rng(1))
    assert grey.shape == (40, 6, 5)
    assert {tuple(row) for row in grey[:, :, 1].tolist()} <= {
        tuple(row) for row in np.concatenate([x[:, 0, :, column] for column in range(3)]).tolist()
    }


def test_flips_and_holes() -> None:
    x = images(200, 1, 4, 6) + 10
    flipped = transforms.RandomHorizontalFlip(0.3)(x, np.random.default_rng(0))
    is_flipped = [np.array_equal(a, b[..., ::-1]) for a, b in zip(flipped, x, strict=True)]
    assert all(np.array_equal(a, b) or c for a, b, c in zip(flipped, x, is_flipped, strict=True))
    assert 40 < sum(is_flipped) < 80
    cut = transforms.Cutout(3)(x, np.random.default_rng(0))
    holes = (cut == 0).sum((1, 2, 3))
    assert holes.max() == 9
    assert holes.min() >= 4  # a corner leaves two by two
    assert np.array_equal(cut[cut != 0], x[cut != 0])
    masked = transforms.RandomMask(-1, 2)(x, np.random.default_rng(0))
    widths = (masked == 0).all((1, 2)).sum(1)
    assert set(widths.tolist()) == {0, 1, 2}
    assert cut.dtype == masked.dtype == flipped.dtype == np.float32


def test_values_are_scaled() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4)).astype(np.uint8)
    chain = transforms.Compose(transforms.ToFloat(), transforms.Normalize([0.5, 0.4, 0.3], [0.1, 0.2, 0.3]))
    (made,) = chain((pixels,), np.random.default_rng(0))
    expected = (pixels / 255 - np.array([0.5, 0.4, 0.3])[:, None, None]) / np.array([0.1, 0.2, 0.3])[:, None, None]
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5)
    assert made.dtype == np.float32


def test_mixup_mixes_labels_like_images() -> None:
    labels = np.arange(8) % 3
    x = np.eye(3, dtype=np.float32)[labels].reshape(8, 3, 1, 1)
    batch = transforms.MixUp(3, alpha=1.0)((x, labels), np.random.default_rng(0))
    np.testing.assert_allclose(batch[0].reshape(8, 3), batch[1], rtol=1e-6)
    np.testing.assert_allclose(batch[1].sum(1), 1, rtol=1e-6)
    assert len(np.unique(batch[1])) > 4
    as_dict = transforms.MixUp(3, 1.0, "x", "y")({"x": x, "y": labels}, np.random.default_rng(0))
    np.testing.assert_array_equal(as_dict["y"], batch[1])
