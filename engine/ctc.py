"""Connectionist temporal classification: the loss over all alignments, and decoding.

Source: Graves et al. 2006, "Connectionist Temporal Classification", equations 6 to 15. Everything is in logarithms and
float64, vectorized over the batch; only time is a loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgec.engine import primitives as p
from edgec.engine import recording, registry
from edgec.engine.arrays import Array
from edgec.engine.errors import GradientError
from edgec.engine.reduction import Reduction, reduced
from edgec.engine.registry import Gradients, Sample, primitive
from edgec.engine.samples import normal

if TYPE_CHECKING:
    from edgec.engine.tape import Node
    from edgec.engine.tensor import Tensor

__all__ = ["ctc_beam_decode", "ctc_greedy_decode", "ctc_loss"]

Lengths: TypeAlias = "Tensor | Array | Sequence[int]"


# --- the primitive ---


@primitive("edgec.CTCLoss", keeps_inputs=(), keeps_outputs=(1,))
def ctc(
    log_probabilities: Array,
    targets: Array,
    input_lengths: Array,
    target_lengths: Array,
    *,
    blank: int = 0,
    zero_infinity: int = 0,
) -> tuple[Array, Array]:
    """Minus the log-probability of each target, and its gradient by `log_probabilities`.

    Shape: log_probabilities (time, n, classes), targets (n, longest), lengths (n); the loss is (n).
    """
    time, n, classes = log_probabilities.shape
    states, may_skip = _states(targets, blank)
    emitted = np.take_along_axis(
        log_probabilities.astype(np.float64), np.broadcast_to(states, (time, *states.shape)), 2
    )
    forward = _forward(emitted, may_skip)
    rows, last = np.arange(n), 2 * target_lengths
    ends = np.full(states.shape, -np.inf)  # 0 for the states in which an alignment may end
    ends[rows, last] = 0.0
    ends[rows, np.maximum(last - 1, 0)] = 0.0
    final = np.where((target_lengths == 0) & (np.arange(states.shape[1])[:, None] == 0), 0.0, -np.inf).T
    if time:
        reached = forward[np.maximum(input_lengths - 1, 0), rows]
        final = np.where((input_lengths > 0)[:, None], reached, final)
    total = _log_sum(final + ends)
    backward = _backward(emitted, may_skip, ends, input_lengths)
    with np.errstate(all="ignore"):
        occupancy = np.exp(forward + backward - total[:, None])  # (time, n, states)
    is_counted = np.arange(time)[:, None] < input_lengths
    occupancy = np.where(is_counted[:, :, None], occupancy, 0.0)
    places = np.arange(time * n).reshape(time, n, 1) * classes + states
    summed = np.bincount(places.ravel(), occupancy.ravel(), minlength=time * n * classes)
    gradient = -summed.reshape(time, n, classes)
    loss = -total + 0.0  # no minus zero
    impossible = np.isinf(loss)
    if zero_infinity:
        loss[impossible] = 0.0
    gradient[is_counted & impossible] = 0.0 if zero_infinity else np.nan
    return loss.astype(log_probabilities.dtype), gradient.astype(log_probabilities.dtype)


@ctc.gradient
def _(call: Node, d_loss: Tensor | None, d_gradient: Tensor | None = None) -> Gradients:
    if d_gradient is not None:
        raise GradientError(
            "the CTC loss has no second derivative in the engine",
            fix="differentiate it once, without create_graph=True",
        )
    assert d_loss is not None
    return p.reshape(d_loss, [1, -1, 1]) * call.output(1), None, None, None


def _log_softmax(x: Array) -> Array:
    return np.asarray(x - np.log(np.exp(x).sum(-1, keepdims=True)))


ctc.samples = lambda: [
    # Unequal lengths, a repeat, an empty target, and a target that fills its input exactly.
    Sample(
        [
            _log_softmax(normal(6, 4, 5)),
            np.array([[1, 2, 4], [3, 3, 0], [0, 0, 0], [2, 1, 2]]),
            np.array([6, 5, 4, 3]),
            np.array([3, 2, 0, 3]),
        ],
        varied=[0],
        order=1,
        reference="",  # ONNX has no such operator; PyTorch is the reference in the tests of the losses
    ),
]


def _states(targets: Array, blank: int) -> tuple[Array, Array]:
    """Labels with blanks between and around, and for which of these states the one before may be skipped."""
    n, longest = targets.shape
    states = np.full((n, 2 * longest + 1), blank, np.int64)
    states[:, 1::2] = targets
    may_skip = np.zeros(states.shape, bool)
    may_skip[:, 2:] = (states[:, 2:] != states[:, :-2]) & (states[:, 2:] != blank)
    return states, may_skip


def _log_sum(values: Array) -> Array:
    """The logarithm of the sum of exponentials over the last axis; nothing but -inf gives -inf."""
    highest = values.max(-1)
    offset = np.where(np.isfinite(highest), highest, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(values - offset[..., None]).sum(-1)) + offset)


def _step(before: Array, may_skip: Array, out: Array) -> None:
    """From each state stay, advance by one, or by two where that is allowed; results and `before` are logarithms."""
    by_one, by_two = np.full_like(before, -np.inf), np.full_like(before, -np.inf)
    by_one[:, 1:] = before[:, :-1]
    np.copyto(by_two[:, 2:], before[:, :-2], where=may_skip[:, 2:])
    # The offset is each state's own: behind a common one, the end of an unlikely target would underflow to zero.
    offset = np.maximum(np.maximum(before, by_one), by_two)
    np.copyto(offset, 0.0, where=np.isneginf(offset))
    total = np.exp(before - offset)
    for way in (by_one, by_two):
        total += np.exp(np.subtract(way, offset, out=way), out=way)
    with np.errstate(divide="ignore"):
        np.add(np.log(total, out=total), offset, out=out)


def _forward(emitted: Array, may_skip: Array) -> Array:
    """Log-probability of all alignments up to each time that end in each state, its emission included."""
    alpha = np.empty_like(emitted)
    before = np.full(may_skip.shape, -np.inf)
    before[:, 0] = 0.0
    for time, now in enumerate(emitted):
        if time == 0:
            alpha[0] = -np.inf
            alpha[0, :, :2] = now[:, :2]
        else:
            _step(alpha[time - 1], may_skip, alpha[time])
            alpha[time] += now
    return alpha


def _backward(emitted: Array, may_skip: Array, ends: Array, input_lengths: Array) -> Array:
    """Log-probability of all ways from each state to the end, without the state's own emission."""
    beta = np.empty_like(emitted)
    # Reversed in its states, a way back is a way forward; skipping belongs to the state that is left.
    skip_back = np.zeros_like(may_skip)
    skip_back[:, 2:] = may_skip[:, :1:-1]
    step = np.empty(may_skip.shape)
    for time in range(len(emitted) - 1, -1, -1):
        if time + 1 < len(emitted):
            _step((beta[time + 1] + emitted[time + 1])[:, ::-1], skip_back, step)
            beta[time] = step[:, ::-1]
        else:
            beta[time] = -np.inf
        is_last = input_lengths == time + 1
        beta[time, is_last] = ends[is_last]
        beta[time, input_lengths <= time] = -np.inf
    return beta


# --- for users ---


def ctc_loss(
    log_probabilities: Tensor,
    targets: Tensor,
    input_lengths: Lengths,
    target_lengths: Lengths,
    blank: int = 0,
    reduction: Reduction = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Minus the log-probability of the targets, over all their alignments with the input.

    A target that does not fit into its input (each repeat needs a blank between) has an infinite loss and a NaN
    gradient, as in PyTorch; with `zero_infinity` both are zero.

    Args:
        log_probabilities: Shape (time, n, classes), from `log_softmax`.
        targets: Class numbers without blanks: padded (n, longest), or one after the other in one axis.
        input_lengths: How much of each sequence counts.
        target_lengths: How long each target is.
        blank: The class of the blank.
        reduction: "mean" divides each loss by its target's length first.
        zero_infinity: Ignore targets that do not fit.

    Raises:
        ValueError: Lengths or targets are outside of what there is, or a target contains the blank.
    """
    time, n, classes = log_probabilities.shape
    inputs, lengths = _lengths(input_lengths), _lengths(target_lengths)
    if inputs.shape != (n,) or lengths.shape != (n,):
        raise ValueError(f"there are {n} sequences, but {inputs.shape} input and {lengths.shape} target lengths")
    recording.refuse_value(targets, "ctc_loss()")
    padded = _padded(targets.data, lengths)
    if inputs.min(initial=0) < 0 or inputs.max(initial=0) > time:
        raise ValueError(f"the input lengths {inputs.tolist()} do not lie in 0 to {time}")
    used = padded[np.arange(padded.shape[1]) < lengths[:, None]]
    if ((used < 0) | (used >= classes) | (used == blank)).any():
        raise ValueError(f"the targets must be classes from 0 to {classes - 1} without the blank, {blank}")
    attributes = {"blank": blank, "zero_infinity": int(zero_infinity)}
    arguments = (log_probabilities, p.constant(padded), p.constant(inputs), p.constant(lengths))
    losses = registry.apply("edgec.CTCLoss", arguments, attributes)[0]
    if reduction == "mean":
        losses = losses / p.constant(np.maximum(lengths, 1), losses.dtype)
    return reduced(losses, reduction)


def _lengths(lengths: Lengths) -> Array:
    return np.asarray(lengths, np.int64)


def _padded(targets: Array, lengths: Array) -> Array:
    """Targets as (n, longest), padded with zeros."""
    longest = int(lengths.max(initial=0))
    if targets.ndim == 2:
        if lengths.min(initial=0) < 0 or longest > targets.shape[1] or len(targets) != len(lengths):
            raise ValueError(f"targets of shape {targets.shape} do not have the lengths {lengths.tolist()}")
        # What is beyond a target's length may be anything; it must only be a class.
        return np.where(np.arange(longest) < lengths[:, None], targets[:, :longest], 0).astype(np.int64)
    if targets.ndim != 1 or targets.size != lengths.sum():
        raise ValueError(f"targets of shape {targets.shape} do not have the lengths {lengths.tolist()}")
    padded = np.zeros((len(lengths), longest), np.int64)
    padded[np.arange(longest) < lengths[:, None]] = targets
    return padded


def ctc_greedy_decode(
    log_probabilities: Tensor | Array, input_lengths: Lengths | None = None, blank: int = 0
) -> list[list[int]]:
    """The most likely class of every moment, with repeats joined and blanks taken out.

    Shape: log_probabilities (time, n, classes).
    """
    best = np.asarray(log_probabilities).argmax(-1)
    lengths = np.full(best.shape[1], len(best)) if input_lengths is None else _lengths(input_lengths)
    is_new = np.ones(best.shape, bool)
    is_new[1:] = best[1:] != best[:-1]
    kept = is_new & (best != blank) & (np.arange(len(best))[:, None] < lengths)
    return [best[kept[:, index], index].tolist() for index in range(best.shape[1])]


def ctc_beam_decode(
    log_probabilities: Tensor | Array, input_lengths: Lengths | None = None, blank: int = 0, width: int = 10
) -> list[list[int]]:
    """The most likely target, by a search that keeps the `width` best prefixes of every moment.

    Unlike the greedy answer it adds up all alignments of a prefix.

    Source: Hannun et al. 2014, "First-pass large vocabulary continuous speech recognition", algorithm 1.
    """
    array = np.asarray(log_probabilities, np.float64)
    lengths = np.full(array.shape[1], len(array)) if input_lengths is None else _lengths(input_lengths)
    return [_beam(array[: int(length), index], blank, width) for index, length in enumerate(lengths)]


def _beam(logs: Array, blank: int, width: int) -> list[int]:
    # Prefix -> log-probabilities of the alignments that end in a blank, and of those that do not.
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -np.inf)}
    for now in logs:
        found: dict[tuple[int, ...], list[float]] = {}
        likely = np.argsort(-now)[: width + 1].tolist()
        for prefix, (in_blank, in_label) in beams.items():
            either = np.logaddexp(in_blank, in_label)
            own = found.setdefault(prefix, [-np.inf, -np.inf])
            own[0] = np.logaddexp(own[0], either + now[blank])
            if prefix:
                own[1] = np.logaddexp(own[1], in_label + now[prefix[-1]])
            for label in likely:
                if label == blank:
                    continue
                before = in_blank if prefix and label == prefix[-1] else either
                longer = found.setdefault((*prefix, label), [-np.inf, -np.inf])
                longer[1] = np.logaddexp(longer[1], before + now[label])
        scored = {prefix: (scores[0], scores[1]) for prefix, scores in found.items()}
        best = sorted(scored, key=lambda prefix: -np.logaddexp(*scored[prefix]))[:width]
        beams = {prefix: scored[prefix] for prefix in best}
    # They stand in falling order.
    return list(next(iter(beams)))
