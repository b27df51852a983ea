"""Metrics against counts by hand and slow definitions."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from edgec.engine import Tensor, metrics


def test_accuracy_counts_the_k_best() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.4, 0.4, 0.4]], np.float32)
    first, second = metrics.Accuracy(), metrics.Accuracy(k=2)
    for metric in (first, second):
        metric.update(Tensor(scores[:2]), Tensor(np.array([1, 1])))
        metric.update(scores[2:], np.array([0, 1]))
    assert first.compute() == 1 / 4
    assert second.compute() == 3 / 4  # equal scores come in the order of the classes, as argmax has it
    first.reset()
    assert math.isnan(first.compute())
    first.update(scores, np.array([1, -100, -100, -100]))
    assert first.compute() == 1.0
    first.reset()
    first.update(np.full((2, 3), np.nan, np.float32), np.array([0, 1]))
    assert first.compute() == 0.0
    first.reset()
    first.update(scores[:2], np.eye(3)[[1, 0]])
    assert first.compute() == 1.0
    maps = np.random.default_rng(0).standard_normal((2, 4, 5, 3))
    wanted = np.random.default_rng(1).integers(0, 4, (2, 5, 3))
    first.reset()
    first.update(maps, wanted)
    assert first.compute() == pytest.approx((maps.argmax(1) == wanted).mean())


def test_figures_of_the_confusion_matrix() -> None:
    wanted = np.array([0, 0, 0, 1, 1, 2, -100])
    found = np.array([0, 0, 1, 1, 0, 0, 2])
    # Class 0: 2 hits of 3, 4 found; class 1: 1 of 2, 2 found; class 2: 0 of 1, never found; class 3 never occurs.
    for make, macro, per_class in [
        (metrics.Precision, (2 / 4 + 1 / 2 + 0) / 3, [2 / 4, 1 / 2, 0, math.nan]),
        (metrics.Recall, (2 / 3 + 1 / 2 + 0) / 3, [2 / 3, 1 / 2, 0, math.nan]),
        (metrics.F1Score, (4 / 7 + 2 / 4 + 0) / 3, [4 / 7, 2 / 4, 0, math.nan]),
        (metrics.MeanIoU, (2 / 5 + 1 / 3 + 0) / 3, [2 / 5, 1 / 3, 0, math.nan]),
    ]:
        metric = make(4)
        metric.update(found[:4], wanted[:4])
        metric.update(Tensor(np.eye(4)[found[4:]]), Tensor(wanted[4:]))
        np.testing.assert_allclose(metric.per_class(), per_class)
        assert metric.compute() == pytest.approx(macro)
        micro = make(4, "micro")
        micro.update(found, wanted)
        assert micro.compute() == pytest.approx(3 / 9 if make is metrics.MeanIoU else 3 / 6)
    matrix = metrics.ConfusionMatrix(4)
    matrix.update(found, wanted)
    assert matrix.matrix.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert matrix.compute() == 0.5
    with pytest.raises(ValueError, match="macro"):
        metrics.F1Score(2, "weighted")


def test_simple_means() -> None:
    mean = metrics.RunningMean()
    mean.add(1.0)
    mean.add(4.0, 2)
    assert mean.compute() == 3.0
    binary = metrics.BinaryAccuracy()
    binary.update(np.array([[1.0, -1.0], [0.5, 2.0]]), np.array([[1, 0], [0, 1]]))
    assert binary.compute() == 0.75
    error = metrics.MeanAbsoluteError()
    error.update(Tensor(np.array([1.0, 2.0])), np.array([0.0, 4.0]))
    assert error.compute() == 1.5


def test_edit_distance_agrees_with_its_definition() -> None:
    @functools.cache
    def slow(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    random = np.random.default_rng(0)
    for _ in range(50):
        a, b = ("".join(random.choice(list("abc"), random.integers(0, 7))) for _ in range(2))
        assert metrics.edit_distance(a, b) == slow(a, b)
    rate = metrics.CharacterErrorRate()
    rate.add(["kitten", ""], ["sitting", "ab"])
    assert rate.compute() == pytest.approx((3 + 2) / (7 + 2))
    rate.reset()
    rate.update(np.array([[1, 2, -1], [3, -1, -1]]), np.array([[1, 2, 3], [3, -1, -1]]))
    assert rate.compute() == pytest.approx(1 / 4)


def test_overlaps_of_boxes() -> None:
    a = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 5, 5]], np.float32)
    np.testing.assert_allclose(metrics.box_iou(a, a), [[1, 1 / 7, 0], [1 / 7, 1, 0], [0, 0, 0]])


def test_average_precision_by_hand() -> None:
    metric = metrics.MeanAveragePrecision()
    true = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]], np.float32)
    found = np.array([[0, 0, 10, 9], [0, 0, 10, 10], [21, 20, 30, 30], [60, 60, 70, 70]], np.float32)
    # By score: right, a second hit on the same box (wrong), right, wrong; one box is missed.
    metric.add(found, np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4), true, np.zeros(3))
    assert metric.compute() == pytest.approx(1 / 3 * 1.0 + 1 / 3 * (2 / 3))
    # Another image: class 1 is found, but so is a class 2 that is not there; it counts in no average.
    metric.add(found[:2], np.array([0.9, 0.8]), np.array([1, 2]), true[:1], np.ones(1))
    assert metric.compute() == pytest.approx((5 / 9 + 1.0) / 2)
    strict = metrics.MeanAveragePrecision([0.5, 0.95])
    strict.add(found[:1], np.array([0.5]), np.zeros(1), true[:1], np.zeros(1))
    assert strict.compute() == 0.5
    with pytest.raises(TypeError, match="call add"):
        metric.update(found, true)
    nothing = metrics.MeanAveragePrecision()
    nothing.add(np.zeros((0, 4)), np.zeros(0), np.zeros(0), true, np.zeros(3))
    assert nothing.compute() == 0.0
