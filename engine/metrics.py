"""Metrics: figures over a whole data set, updated batch by batch. All compute with NumPy, outside the graph."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, TypeAlias

import numpy as np

from edgec.engine.arrays import Array
from edgec.engine.tensor import Tensor

__all__ = [
    "Accuracy", "BinaryAccuracy", "CharacterErrorRate", "ConfusionMatrix", "F1Score", "MeanAbsoluteError",
    "MeanAveragePrecision", "MeanIoU", "Metric", "Precision", "Recall", "RunningMean", "box_iou", "edit_distance",
]  # fmt: skip

Values: TypeAlias = "Tensor | Array"
Average: TypeAlias = Literal["macro", "micro"]


class Metric:
    """Base: `update` takes the outputs and targets of a batch, `compute` gives the figure of all since `reset`."""

    def reset(self) -> None:
        raise NotImplementedError

    def update(self, outputs: Values, targets: Values) -> None:
        raise NotImplementedError

    def compute(self) -> float:
        """NaN if there was nothing to count."""
        raise NotImplementedError


def _array(values: Values) -> Array:
    return values.data if isinstance(values, Tensor) else np.asarray(values)


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")


class RunningMean(Metric):
    """The mean of numbers, each counted `weight` times."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total, self.weight = 0.0, 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        self.total += value * weight
        self.weight += weight

    def update(self, outputs: Values, targets: Values) -> None:  # noqa: ARG002
        values = _array(outputs)
        self.add(float(values.mean()), values.size)

    def compute(self) -> float:
        return _ratio(self.total, self.weight)


class _Share(Metric):
    """A number of hits among a number of tries."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.hits, self.count = 0.0, 0

    def compute(self) -> float:
        return _ratio(self.hits, self.count)


class Accuracy(_Share):
    """Share of the samples whose class is among the `k` highest outputs.

    Shape: outputs (n, classes, ...), targets (n, ...) of class numbers, or probabilities like the outputs. Targets of
    `ignore_index` do not count.
    """

    def __init__(self, k: int = 1, ignore_index: int = -100) -> None:
        super().__init__()
        self.k, self.ignore_index = k, ignore_index

    def update(self, outputs: Values, targets: Values) -> None:
        scores, wanted = _array(outputs), _array(targets)
        if wanted.ndim == scores.ndim:
            wanted = wanted.argmax(1)
        counted = wanted != self.ignore_index
        safe = np.where(counted, wanted, 0)[:, None]
        own = np.take_along_axis(scores, safe, 1)
        # Equal scores count as worse, except an own one: a network that always says the same is not always right.
        order = np.arange(scores.shape[1]).reshape(-1, *(1,) * (scores.ndim - 2))
        before = (scores > own) | ((scores == own) & (order < safe))
        self.hits += float(((before.sum(1) < self.k) & ~np.isnan(own[:, 0]) & counted).sum())
        self.count += int(counted.sum())


class BinaryAccuracy(_Share):
    """Share of outputs on the right side of a threshold. Shape: outputs and targets (0 or 1) alike."""

    def __init__(self, threshold: float = 0.0) -> None:
        super().__init__()
        self.threshold = threshold

    def update(self, outputs: Values, targets: Values) -> None:
        is_right = (_array(outputs) > self.threshold) == (_array(targets) > 0.5)
        self.hits += float(is_right.sum())
        self.count += is_right.size


class MeanAbsoluteError(_Share):
    def update(self, outputs: Values, targets: Values) -> None:
        errors = np.abs(_array(outputs) - _array(targets))
        self.hits += float(errors.sum(dtype=np.float64))
        self.count += errors.size


class ConfusionMatrix(Metric):
    """How often each class (row) was taken for each class (column); `compute` is the share on the diagonal."""

    def __init__(self, classes: int, ignore_index: int = -100) -> None:
        self.classes, self.ignore_index = classes, ignore_index
        self.reset()

    def reset(self) -> None:
        self.matrix = np.zeros((self.classes, self.classes), np.int64)

    def update(self, outputs: Values, targets: Values) -> None:
        """Outputs are class numbers like the targets, or scores with the classes on axis 1."""
        found, wanted = _array(outputs), _array(targets)
        if found.ndim == wanted.ndim + 1:
            found = found.argmax(1)
        counted = wanted != self.ignore_index
        places = wanted[counted].astype(np.int64) * self.classes + found[counted].astype(np.int64)
        self.matrix += np.bincount(places, minlength=self.classes**2).reshape(self.classes, self.classes)

    def compute(self) -> float:
        return _ratio(np.trace(self.matrix), self.matrix.sum())


class _PerClass(ConfusionMatrix):
    """A figure per class from the confusion matrix, averaged over the classes that occur."""

    def __init__(self, classes: int, average: Average = "macro", ignore_index: int = -100) -> None:
        if average not in ("macro", "micro"):
            raise ValueError(f'average must be "macro" or "micro", not {average!r}')
        super().__init__(classes, ignore_index)
        self.average = average

    def per_class(self) -> Array:
        """NaN for a class that has no figure."""
        hits = np.diagonal(self.matrix).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self._figure(hits, self.matrix.sum(0) - hits, self.matrix.sum(1) - hits))

    def compute(self) -> float:
        if self.average == "micro":
            hits = float(np.trace(self.matrix))
            wrong = float(self.matrix.sum()) - hits
            return float(self._figure(hits, wrong, wrong))
        figures = self.per_class()
        known = ~np.isnan(figures)
        return float(figures[known].mean()) if known.any() else float("nan")

    def _figure(self, hits: Array | float, false_alarms: Array | float, misses: Array | float) -> Array | float:
        raise NotImplementedError


class Precision(_PerClass):
    """Share of the found that are right; a class that was never found counts 0 if it occurs, else not at all."""

    def _figure(self, hits: Array | float, false_alarms: Array | float, misses: Array | float) -> Array | float:
        found = hits + false_alarms
        return np.where((found == 0) & (np.asarray(misses) > 0), 0.0, hits / np.where(found == 0, np.nan, found))


class Recall(_PerClass):
    """Share of those there that were found; a class that does not occur does not count."""

    def _figure(self, hits: Array | float, false_alarms: Array | float, misses: Array | float) -> Array | float:  # noqa: ARG002
        return hits / np.where(hits + misses == 0, np.nan, hits + misses)


class F1Score(_PerClass):
    """The harmonic mean of precision and recall."""

    def _figure(self, hits: Array | float, false_alarms: Array | float, misses: Array | float) -> Array | float:
        total = 2 * hits + false_alarms + misses
        return 2 * hits / np.where(total == 0, np.nan, total)


class MeanIoU(_PerClass):
    """Intersection over union of the pixels of each class."""

    def _figure(self, hits: Array | float, false_alarms: Array | float, misses: Array | float) -> Array | float:
        union = hits + false_alarms + misses
        return hits / np.where(union == 0, np.nan, union)


# --- texts ---


def edit_distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Insertions, deletions and substitutions that make one sequence of the other. Source: Levenshtein 1966."""
    row = list(range(len(other) + 1))
    for count, item in enumerate(one, 1):
        diagonal, row[0] = row[0], count
        for place, against in enumerate(other, 1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (item != against))
    return row[-1]


class CharacterErrorRate(Metric):
    """Edits between the texts read and the texts meant, over the length of those meant. It can exceed 1."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.edits, self.length = 0, 0

    def add(self, read: Sequence[Sequence[Hashable]], meant: Sequence[Sequence[Hashable]]) -> None:
        """Texts, or lists of class numbers."""
        for one, other in zip(read, meant, strict=True):
            self.edits += edit_distance(one, other)
            self.length += len(other)

    def update(self, outputs: Values, targets: Values) -> None:
        """Class numbers, one text per row; shorter texts are padded with negative numbers."""
        read, meant = ([row[row >= 0].tolist() for row in _array(values)] for values in (outputs, targets))
        self.add(read, meant)

    def compute(self) -> float:
        return _ratio(self.edits, self.length)


# --- detection ---


def box_iou(a: Values, b: Values) -> Array:
    """Intersection over union of all pairs of boxes (left, top, right, bottom). Shape: (n, 4), (m, 4) to (n, m)."""
    one, other = _array(a)[:, None], _array(b)[None]
    size = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    overlap = np.clip(size, 0, None).prod(-1)
    areas = [np.clip(box[..., 2:] - box[..., :2], 0, None).prod(-1) for box in (one, other)]
    union = areas[0] + areas[1] - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap, np.float64), where=union > 0))


class MeanAveragePrecision(Metric):
    """The area under precision over recall, averaged over classes and overlaps.

    Precision is made falling first and integrated over all recalls (Pascal VOC 2010), not read at 101 points (COCO).

    Args:
        overlaps: A detection is right from this intersection over union on; several are averaged.
    """

    def __init__(self, overlaps: Sequence[float] = (0.5,)) -> None:
        self.overlaps = tuple(overlaps)
        self.reset()

    def reset(self) -> None:
        # Per class: the number of boxes there are; per detection its score and, for each overlap, whether it is right.
        self.present: dict[int, int] = {}
        self.found: dict[int, list[tuple[float, tuple[bool, ...]]]] = {}

    def add(self, boxes: Values, scores: Values, labels: Values, true_boxes: Values, true_labels: Values) -> None:
        """The detections in one image and what is in it. Shape: boxes (n, 4), scores and labels (n)."""
        found, score, label, true, true_label = map(_array, (boxes, scores, labels, true_boxes, true_labels))
        for kind in np.union1d(label, true_label).astype(int).tolist():
            mine, there = np.flatnonzero(label == kind), np.flatnonzero(true_label == kind)
            mine = mine[np.argsort(-score[mine], kind="stable")]
            self.present[kind] = self.present.get(kind, 0) + len(there)
            rights = [_matched(box_iou(found[mine], true[there]), overlap) for overlap in self.overlaps]
            self.found.setdefault(kind, []).extend(
                (float(score[index]), tuple(right[place] for right in rights)) for place, index in enumerate(mine)
            )

    def update(self, outputs: Values, targets: Values) -> None:  # noqa: ARG002
        raise TypeError("MeanAveragePrecision takes the detections of one image at a time: call add()")

    def compute(self) -> float:
        figures = [
            self._average_precision(kind, place)
            for kind, count in self.present.items()
            if count
            for place in range(len(self.overlaps))
        ]
        return float(np.mean(figures)) if figures else float("nan")

    def _average_precision(self, kind: int, place: int) -> float:
        ranked = sorted(self.found[kind], key=lambda item: -item[0])
        hits = np.cumsum([item[1][place] for item in ranked])
        if not len(hits):
            return 0.0
        precision = hits / np.arange(1, len(hits) + 1)
        falling = np.maximum.accumulate(precision[::-1])[::-1]
        recall = hits / self.present[kind]
        return float((np.diff(recall, prepend=0.0) * falling).sum())


def _matched(overlaps: Array, least: float) -> list[bool]:
    """For each detection, best first, whether it takes a box that no better one has taken."""
    free = np.ones(overlaps.shape[1], bool)
    right = []
    for row in overlaps:
        best = int(np.argmax(np.where(free, row, -1.0))) if free.any() else -1
        is_right = best >= 0 and bool(row[best] >= least)
        if is_right:
            free[best] = False
        right.append(is_right)
    return right
