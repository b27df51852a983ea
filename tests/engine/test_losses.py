"""Losses against PyTorch: value, and gradient by every floating input."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgec.engine import GradientError, Tensor, check_grads, grad, nn
from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.engine.ctc import ctc_beam_decode, ctc_greedy_decode

RNG = np.random.default_rng(3)
LOGITS, OTHER = (RNG.standard_normal((6, 4)).astype(np.float32) for _ in range(2))
MAPS = RNG.standard_normal((2, 4, 3, 3)).astype(np.float32)
WEIGHT = np.array([0.5, 2.0, 1.0, 3.0], np.float32)
CLASSES = np.array([0, 3, 1, -100, 2, 1])
MAP_CLASSES = RNG.integers(0, 4, (2, 3, 3))
SHARES = np.abs(OTHER) / np.abs(OTHER).sum(1, keepdims=True)
YES = (OTHER > 0).astype(np.float32)
SIGNS = np.array([1, -1, 1, -1, -1, 1])
THIRD = RNG.standard_normal((6, 4)).astype(np.float32)

# Name, arrays, and options that are called the same here and in PyTorch; without "reduction", all three are tried.
CASES: list[tuple[str, list[np.ndarray], dict[str, Any]]] = [
    ("mse_loss", [LOGITS, OTHER], {}),
    ("l1_loss", [LOGITS, OTHER], {}),
    ("smooth_l1_loss", [LOGITS, OTHER], {"beta": 0.7}),
    ("smooth_l1_loss", [LOGITS, OTHER], {"beta": 0.0}),
    ("huber_loss", [LOGITS, OTHER], {"delta": 0.7}),
    ("cross_entropy", [LOGITS, CLASSES], {}),
    ("cross_entropy", [LOGITS, CLASSES], {"weight": WEIGHT, "label_smoothing": 0.1}),
    ("cross_entropy", [LOGITS, CLASSES], {"label_smoothing": 0.2}),
    ("cross_entropy", [LOGITS, np.abs(CLASSES) % 4], {"ignore_index": 1, "weight": WEIGHT}),
    ("cross_entropy", [LOGITS, np.abs(CLASSES) % 4], {"weight": WEIGHT, "label_smoothing": 0.3}),
    ("cross_entropy", [LOGITS, SHARES], {"label_smoothing": 0.1, "weight": WEIGHT}),
    ("cross_entropy", [MAPS, MAP_CLASSES], {"weight": WEIGHT, "label_smoothing": 0.1, "ignore_index": 2}),
    ("nll_loss", [LOGITS, CLASSES], {"weight": WEIGHT}),
    ("nll_loss", [MAPS, MAP_CLASSES], {"ignore_index": 0}),
    ("binary_cross_entropy", [SHARES, YES], {"weight": WEIGHT}),
    ("binary_cross_entropy_with_logits", [LOGITS, YES], {}),
    ("binary_cross_entropy_with_logits", [LOGITS, SHARES], {"pos_weight": WEIGHT, "weight": WEIGHT}),
    ("kl_div", [np.log(SHARES), SHARES], {}),
    ("kl_div", [LOGITS, SHARES], {"reduction": "batchmean"}),
    ("kl_div", [LOGITS, np.log(SHARES)], {"log_target": True}),
    ("cosine_embedding_loss", [LOGITS, OTHER, SIGNS], {"margin": 0.1}),
    ("triplet_margin_loss", [LOGITS, OTHER, THIRD], {"margin": 0.5}),
]  # fmt: skip


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    a, b = np.asarray(actual), np.asarray(expected)
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning")
@pytest.mark.parametrize(("name", "arrays", "options"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_loss_agrees_with_pytorch(
    torch: ModuleType, name: str, arrays: list[np.ndarray], options: dict[str, Any]
) -> None:
    for reduction in [options["reduction"]] if "reduction" in options else ["none", "mean", "sum"]:
        wants = [array.dtype == np.float32 for array in arrays]
        own = [Tensor(array, wanted) for array, wanted in zip(arrays, wants, strict=True)]
        peers = [torch.tensor(array, requires_grad=wanted) for array, wanted in zip(arrays, wants, strict=True)]
        plain = {key: value for key, value in options.items() if not isinstance(value, np.ndarray)}
        tables = {key: value for key, value in options.items() if isinstance(value, np.ndarray)}
        settings: dict[str, Any] = {**plain, "reduction": reduction}
        ours = getattr(F, name)(*own, **settings, **{key: Tensor(value) for key, value in tables.items()})
        theirs = getattr(torch.nn.functional, name)(
            *peers, **settings, **{key: torch.tensor(value) for key, value in tables.items()}
        )
        close(ours.data, theirs.detach())
        scale = 1 + 0.1 * np.arange(ours.size, dtype=np.float32).reshape(ours.shape)
        (ours * Tensor(scale)).sum().backward()
        (theirs * torch.tensor(scale)).sum().backward()
        for tensor, peer in zip(own, peers, strict=True):
            if tensor.requires_grad:
                close(tensor.grad.data, peer.grad)


def test_wrong_labels_are_refused() -> None:
    with pytest.raises(IndexError, match="target 4 is no class: there are 4"):
        F.cross_entropy(Tensor(LOGITS), Tensor(np.array([0, 1, 2, 3, 4, 0])))
    with pytest.raises(IndexError, match="target -1 is no class"):
        F.cross_entropy(Tensor(LOGITS), Tensor(np.array([0, 1, 2, 3, -1, 0])), label_smoothing=0.1)
    with pytest.raises(ValueError, match="reduction must be"):
        F.mse_loss(Tensor(LOGITS), Tensor(OTHER), "average")


def test_focal_losses_agree_with_their_formulas() -> None:
    x = LOGITS.astype(np.float64)
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    target = np.abs(CLASSES) % 4
    chosen = p[np.arange(6), target]
    close(F.focal_loss(Tensor(x), Tensor(target), 1.5, reduction="none").data, -((1 - chosen) ** 1.5) * np.log(chosen))
    weighted = -((1 - chosen) ** 2) * np.log(chosen) * WEIGHT[target]
    made = F.focal_loss(Tensor(x), Tensor(target), weight=Tensor(WEIGHT.astype(np.float64)))
    close(made.data, np.float64(weighted.sum() / WEIGHT[target].sum()))
    yes = 1 / (1 + np.exp(-x))
    p_t, alpha = np.where(YES, yes, 1 - yes), np.where(YES, 0.3, 0.7)
    made = F.sigmoid_focal_loss(Tensor(x), Tensor(YES.astype(np.float64)), 0.3, 1.5, "none")
    close(made.data, -alpha * (1 - p_t) ** 1.5 * np.log(p_t))
    check_grads(lambda x: F.focal_loss(x, Tensor(target)), LOGITS)
    mask = (OTHER > 0).astype(np.float64)
    soft = F.dice_loss(Tensor(mask), Tensor(mask)).item()
    assert soft == pytest.approx(0.0, abs=1e-7)


# --- CTC ---


def ctc_both(
    torch: ModuleType, logits: np.ndarray, targets: np.ndarray, inputs: list[int], lengths: list[int], **options: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Loss and gradient by the logits, ours and PyTorch's."""
    x, peer = Tensor(logits, True), torch.tensor(logits, requires_grad=True)
    ours = F.ctc_loss(F.log_softmax(x), Tensor(targets), inputs, lengths, **options)
    theirs = torch.nn.functional.ctc_loss(
        peer.log_softmax(-1), torch.tensor(targets), torch.tensor(inputs), torch.tensor(lengths), **options
    )
    ours.sum().backward()
    theirs.sum().backward()
    return ours.data, theirs.detach().numpy(), x.grad.data, peer.grad.numpy()


@pytest.mark.parametrize("blank", [0, 4])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ctc_agrees_with_pytorch(
    torch: ModuleType, blank: int, reduction: str, zero_infinity: bool, dtype: type
) -> None:
    """Repeats, an empty target, one that fills its input, and one that does not fit for the blank it needs."""
    labels = [1, 2, 3] if blank == 4 else [4, 2, 3]
    a, b, c = labels
    targets = np.array([[a, b, b, c], [a, a, a, b], [a, c, 1, 1], [c, c, 2, 2], [c, b, a, c]])
    inputs, lengths = [9, 7, 5, 3, 4], [4, 3, 0, 2, 4]
    logits = np.random.default_rng(1).standard_normal((9, 5, 6)).astype(dtype) * 2
    for unfit in (False, True):
        if unfit:
            inputs[3] = 2  # "cc" needs three moments
        options = {"blank": blank, "reduction": reduction, "zero_infinity": zero_infinity}
        ours, theirs, own_grad, peer_grad = ctc_both(torch, logits, targets, inputs, lengths, **options)
        tolerance = 1e-10 if dtype is np.float64 else 2e-5
        close(ours, theirs, tolerance)
        if reduction == "none" and unfit:
            assert ours[3] == (0.0 if zero_infinity else np.inf)
        close(own_grad, peer_grad, tolerance)
        flat = np.concatenate([row[:size] for row, size in zip(targets, lengths, strict=True)])
        close(F.ctc_loss(F.log_softmax(Tensor(logits)), Tensor(flat), inputs, lengths, **options).data, ours)


def test_ctc_agrees_with_pytorch_on_many_random_batches(torch: ModuleType) -> None:
    random = np.random.default_rng(5)
    for _ in range(40):
        time, n, longest, classes = (int(random.integers(1, high)) for high in (25, 6, 8, 5))
        logits = random.standard_normal((time, n, classes + 1)) * random.choice([0.5, 5.0, 30.0])
        targets = random.integers(1, classes + 1, (n, longest))
        inputs, lengths = random.integers(0, time + 1, n).tolist(), random.integers(0, longest + 1, n).tolist()
        made = ctc_both(torch, logits, targets, inputs, lengths, reduction="none")
        # PyTorch has no gradient for a sequence without input; it is 0 here.
        used = np.array(inputs) > 0
        close(made[0], made[1], 1e-9)
        close(made[2][:, used], made[3][:, used], 1e-8)


def test_ctc_of_an_unlikely_target_is_finite() -> None:
    """A network that is sure of the blank: the target's end lies thousands of nats behind the best state."""
    logits = np.zeros((200, 1, 3))
    logits[:, :, 0] = 60.0
    loss = F.ctc_loss(F.log_softmax(Tensor(logits)), Tensor(np.array([[1, 2] * 30])), [200], [60], reduction="sum")
    assert 60 * 40 < loss.item() < 60 * 60


def test_ctc_sums_over_all_alignments() -> None:
    logs = np.log(np.random.default_rng(0).dirichlet(np.ones(3), 4))
    total = 0.0
    for path in itertools.product(range(3), repeat=4):
        joined = [label for label, _ in itertools.groupby(path)]
        if [label for label in joined if label] == [1, 2]:
            total += np.exp(sum(logs[time, label] for time, label in enumerate(path)))
    loss = F.ctc_loss(Tensor(logs[:, None]), Tensor(np.array([[1, 2]])), [4], [2], reduction="sum")
    assert loss.item() == pytest.approx(-np.log(total), rel=1e-12)


def test_ctc_refuses_what_makes_no_sense() -> None:
    logs = Tensor(np.zeros((4, 2, 3), np.float32), True)
    targets = Tensor(np.array([[1, 2], [2, 1]]))
    call: Callable[..., Tensor] = F.ctc_loss
    with pytest.raises(ValueError, match="input lengths"):
        call(logs, targets, [5, 4], [2, 2])
    with pytest.raises(ValueError, match="do not have the lengths"):
        call(logs, targets, [4, 4], [2, 3])
    with pytest.raises(ValueError, match="without the blank, 2"):
        call(logs, targets, [4, 4], [2, 2], blank=2)
    with pytest.raises(ValueError, match="2 sequences"):
        call(logs, targets, [4], [2, 2])
    (first,) = grad(call(logs, targets, [4, 4], [2, 2]), logs, create_graph=True)
    with pytest.raises(GradientError, match="no second derivative"):
        grad((first * first).sum(), logs)


def test_ctc_decoding() -> None:
    best = np.array([[0, 1], [1, 1], [1, 0], [0, 1], [1, 2], [2, 2]])
    logs = np.log(np.full((6, 2, 3), 0.1))
    np.put_along_axis(logs, best[:, :, None], np.log(0.8), 2)
    assert ctc_greedy_decode(logs) == [[1, 1, 2], [1, 1, 2]]
    assert ctc_greedy_decode(logs, [3, 2]) == [[1], [1]]
    assert ctc_beam_decode(logs, width=5) == [[1, 1, 2], [1, 1, 2]]
    # The blank is the best of every moment, but "1" has more alignments: 0.4 0.4 + 2 * 0.4 0.6 > 0.6 0.6.
    unsure = np.log(np.array([[[0.6, 0.4]], [[0.6, 0.4]]]))
    assert ctc_greedy_decode(unsure) == [[]]
    assert ctc_beam_decode(unsure) == [[1]]


def test_beam_search_finds_the_best_target() -> None:
    """Against the sum over all alignments of all targets, for random short inputs."""
    random = np.random.default_rng(2)
    for _ in range(10):
        logs = np.log(random.dirichlet(np.ones(3), 5))
        sums: dict[tuple[int, ...], float] = {}
        for path in itertools.product(range(3), repeat=5):
            joined = tuple(label for label, _ in itertools.groupby(path) if label)
            sums[joined] = sums.get(joined, 0.0) + np.exp(sum(logs[time, label] for time, label in enumerate(path)))
        assert tuple(ctc_beam_decode(logs[:, None], width=50)[0]) == max(sums, key=lambda key: sums[key])


def test_loss_modules_are_their_functions() -> None:
    x, y = Tensor(LOGITS), Tensor(OTHER)
    target = Tensor(CLASSES)
    for module, arguments, expected in [
        (nn.HuberLoss(delta=0.5), (x, y), F.huber_loss(x, y, delta=0.5)),
        (nn.KLDivLoss("batchmean"), (x, Tensor(SHARES)), F.kl_div(x, Tensor(SHARES), "batchmean")),
        (
            nn.CrossEntropyLoss(weight=Tensor(WEIGHT), ignore_index=1),
            (x, Tensor(np.abs(CLASSES) % 4)),
            F.cross_entropy(x, Tensor(np.abs(CLASSES) % 4), weight=Tensor(WEIGHT), ignore_index=1),
        ),
        (nn.FocalLoss(1.0), (x, target), F.focal_loss(x, target, 1.0)),
        (nn.TripletMarginLoss(0.3), (x, y, Tensor(THIRD)), F.triplet_margin_loss(x, y, Tensor(THIRD), 0.3)),
    ]:
        close(module(*arguments).data, expected.data)
    assert list(nn.CrossEntropyLoss(weight=Tensor(WEIGHT)).parameters()) == []
