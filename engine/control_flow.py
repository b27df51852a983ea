"""Branches and loops on values of tensors: `cond`, `while_loop` and `scan`.

Run eagerly they are Python's own ``if`` and ``for``, and the calls inside are noted one by one. In a recording they
become one node, an ONNX If, Loop or Scan, whose bodies are recordings of their own; both branches, and a loop's body
once, are run on the example values for that, whatever the condition is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import numpy as np

from edgec.engine import primitives as p
from edgec.engine import random, tree
from edgec.engine.control_gradients import BRANCH, LOOP, SCAN, noted
from edgec.engine.errors import TraceError
from edgec.engine.modes import no_grad, state
from edgec.engine.recording import record_body, suspended
from edgec.engine.registry import apply
from edgec.engine.tensor import Tensor

if TYPE_CHECKING:
    from edgec.engine.arrays import Array

__all__ = ["cond", "scan", "while_loop"]

Body: TypeAlias = Callable[..., Sequence[Tensor]]
_T = TypeVar("_T")


def cond(
    pred: Tensor | bool,
    true_fn: Callable[..., _T],
    false_fn: Callable[..., _T] | None = None,
    operands: Sequence[object] = (),
) -> _T:
    """``true_fn(*operands)`` if `pred` holds, else ``false_fn(*operands)``; an If when it is traced.

    Args:
        pred: One element. A value that is known while tracing, such as a Python bool, chooses there and then.
        true_fn: Gives a tensor, or a nest of them.
        false_fn: Gives the same structure with the same shapes and dtypes. Without it, and `pred` false, the
            result is None, which cannot be traced.
        operands: What the functions are called with. They may use other tensors from around them as well.

    Raises:
        TraceError: The branches do not give the same structure, shapes and dtypes, or one changes a tensor in place.

    Example::

        y = engine.cond(x.sum() > 0, lambda: x * 2, lambda: -x)
    """
    is_traced = isinstance(pred, Tensor) and state.recording is not None and state.recording.is_traced(pred)
    if not is_traced:
        if bool(pred):
            return true_fn(*operands)
        return cast(_T, None if false_fn is None else false_fn(*operands))
    if false_fn is None:
        raise TraceError("cond: a traced branch needs a false_fn", fix="return what shall be used if pred is false")
    shapes: list[tree.Tree] = []

    def flat(function: Callable[..., object]) -> Body:
        def body() -> list[Tensor]:
            leaves, shape = tree.flatten(function(*operands))
            shapes.append(shape)
            return leaves

        return body

    results = branch(cast(Tensor, pred), flat(true_fn), flat(false_fn))
    if shapes[0] != shapes[1]:
        raise TraceError("cond: the branches return different structures", fix="return the same nest of tensors")
    return cast(_T, tree.rebuild(shapes[0], results))


def while_loop(
    cond_fn: Callable[..., Tensor], body_fn: Callable[..., object], loop_vars: Sequence[object]
) -> list[object]:
    """Run ``loop_vars = body_fn(*loop_vars)`` while ``cond_fn(*loop_vars)`` holds; a Loop when it is traced.

    Args:
        cond_fn: Gives one boolean.
        body_fn: Gives the new loop variables, in the same structure and, if traced, the same shapes and dtypes.
        loop_vars: Tensors or nests of them.

    Raises:
        TraceError: In a trace, a variable changes its shape or dtype.

    Example::

        i, x = engine.while_loop(lambda i, x: i < 5, lambda i, x: [i + 1, x * 1.5], [engine.tensor(0), x])
    """
    leaves, shape = tree.flatten(list(loop_vars))

    def stepped(values: Sequence[Tensor]) -> list[Tensor]:
        made = body_fn(*cast(list[object], tree.rebuild(shape, values)))
        new, made_shape = tree.flatten(list(made) if isinstance(made, tuple | list) else [made])
        if made_shape != shape:
            raise ValueError(
                "while_loop: body_fn must return as many values as there are loop_vars, in their structure"
            )
        return new

    def keeps_going(values: Sequence[Tensor]) -> Tensor:
        return cond_fn(*cast(list[object], tree.rebuild(shape, values)))

    if state.recording is None:
        values: Sequence[Tensor] = leaves
        while bool(keeps_going(values)):
            values = stepped(values)
    else:

        def body(*given: Tensor) -> list[Tensor]:
            new = stepped(given)
            return [_flag(keeps_going(new)), *new]

        values = loop(_flag(keeps_going(leaves)), leaves, body)
    return cast(list[object], tree.rebuild(shape, values))


def scan(fn: Callable[[Any, Any], tuple[Any, Any]], init: object, xs: object, reverse: bool = False) -> tuple[Any, Any]:
    """Carry a state along the first axis of `xs`: ``carry, y = fn(carry, x)``; a Scan when it is traced.

    Args:
        fn: Takes the carry and one slice of `xs`, gives the new carry and a result; both may be nests of tensors.
        init: The first carry.
        xs: A tensor or nest of tensors of one length.
        reverse: Go from the last slice to the first; the results stay in the order of `xs`.

    Returns:
        The last carry, and the results stacked along a new first axis.

    Example::

        total, sums = engine.scan(lambda carry, x: (carry + x, carry + x), engine.zeros(3), rows)
    """
    carried, carry_shape = tree.flatten(init)
    parts, part_shape = tree.flatten(xs)
    result_shape: list[tree.Tree] = []
    if len({part.shape[0] for part in parts}) != 1:
        raise ValueError(f"scan: xs must have one length, they have {[part.shape[0] for part in parts]}")

    def body(*given: Tensor) -> list[Tensor]:
        carry, y = fn(tree.rebuild(carry_shape, given[: len(carried)]), tree.rebuild(part_shape, given[len(carried) :]))
        new, new_shape = tree.flatten(carry)
        results, shape = tree.flatten(y)
        if new_shape != carry_shape:
            raise ValueError("scan: fn must return a carry in the structure of init")
        result_shape.append(shape)
        return [*new, *results]

    made = scan_flat(body, carried, parts, reverse)
    count = len(carried)
    return tree.rebuild(carry_shape, made[:count]), tree.rebuild(result_shape[0], made[count:])


# --- the same on flat lists of tensors, which is also how a recording is run again ---


def branch(pred: Tensor, true_fn: Body, false_fn: Body) -> Sequence[Tensor]:
    recording = state.recording
    if recording is None or not recording.is_traced(pred):
        return true_fn() if bool(pred) else false_fn()
    pred = _flag(pred)
    bodies = []
    for function in (true_fn, false_fn):
        with random.preserved(), record_body([]) as body:
            body.outputs = tuple(body.resolve(tensor) for tensor in function())
        bodies.append(body)
    then, otherwise = bodies
    _check_alike("cond: the branches give", then.outputs, otherwise.outputs)
    chosen = then if bool(pred.array) else otherwise
    made = noted(BRANCH, [pred], bodies, {}, [output.array for output in chosen.outputs])
    recording.append("If", (pred,), {"then_branch": then, "else_branch": otherwise}, made)
    return made


def loop(keep_going: Tensor, carried: Sequence[Tensor], body: Body) -> Sequence[Tensor]:
    """`body` gives whether to go on, then the new carried tensors."""
    recording = state.recording
    if recording is None:
        values = carried
        while bool(keep_going):
            keep_going, *values = body(*values)
        return values
    count, flag = p.constant(np.zeros((), np.int64)), p.constant(np.ones((), np.bool_))
    inputs = [_fresh(tensor, tensor.array) for tensor in carried]
    with random.preserved(), record_body([count, flag, *inputs]) as recorded:
        recorded.outputs = tuple(recorded.resolve(tensor) for tensor in body(*inputs))
    _check_alike("while_loop: a loop variable and its new value are", carried, recorded.outputs[1:])
    from edgec.engine.replay import Plan

    plan = Plan(recorded, recorded.outputs)
    with suspended(), no_grad(), random.preserved():
        values, goes_on = [p.constant(tensor.array) for tensor in carried], bool(keep_going.array)
        while goes_on:
            flag, *values = plan.run([count, flag, *values])
            goes_on = bool(flag)
    made = noted(LOOP, [keep_going, *carried], [recorded], {}, [value.array for value in values])
    recording.append("Loop", (None, keep_going, *carried), {"body": recorded}, made)
    return made


def scan_flat(body: Body, carried: Sequence[Tensor], xs: Sequence[Tensor], reverse: bool) -> Sequence[Tensor]:
    """`body` takes the carried tensors and one slice each, gives the new carried tensors and one result each."""
    recording, count = state.recording, len(carried)
    if recording is None:
        return _unrolled(body, carried, xs, reverse)
    inputs = [
        *(_fresh(tensor, tensor.array) for tensor in carried),
        *(_fresh(x, x.array[0] if len(x) else np.zeros(x.shape[1:], x.dtype)) for x in xs),
    ]
    with random.preserved(), record_body(inputs) as recorded:
        recorded.outputs = tuple(recorded.resolve(tensor) for tensor in body(*inputs))
    _check_alike("scan: the carry and the new one are", carried, recorded.outputs[:count])
    from edgec.engine.replay import Plan

    plan = Plan(recorded, recorded.outputs)
    with suspended(), no_grad(), random.preserved():
        values = [p.constant(tensor.array) for tensor in (*carried, *xs)]
        results = _unrolled(lambda *given: plan.run(given), values[:count], values[count:], reverse)
    settings = {"carried": count, "reverse": reverse}
    made = noted(SCAN, [*carried, *xs], [recorded], settings, [result.array for result in results])
    direction = int(reverse)
    attributes: dict[str, object] = {
        "body": recorded,
        "num_scan_inputs": len(xs),
        "scan_input_directions": [direction] * len(xs),
        "scan_output_directions": [direction] * (len(made) - count),
    }
    recording.append("Scan", (*carried, *xs), attributes, made)
    return made


def _unrolled(body: Body, carried: Sequence[Tensor], xs: Sequence[Tensor], reverse: bool) -> list[Tensor]:
    length, count = xs[0].shape[0], len(carried)
    if not length:
        with no_grad(), random.preserved():
            made = body(*carried, *(p.zeros(x.shape[1:], x.dtype) for x in xs))
        return [*carried, *(p.zeros((0, *result.shape), result.dtype) for result in made[count:])]
    sizes = p.int64([1] * length)
    slices = [[p.squeeze(part, [0]) for part in apply("Split", (x, sizes), {"axis": 0}, outputs=length)] for x in xs]
    values: Sequence[Tensor] = carried
    rows: list[Sequence[Tensor]] = []
    for index in reversed(range(length)) if reverse else range(length):
        made = body(*values, *(several[index] for several in slices))
        values, results = made[:count], made[count:]
        rows.append(results)
    if reverse:
        rows.reverse()
    stacked = [p.concat([p.unsqueeze(part, [0]) for part in parts], 0) for parts in zip(*rows, strict=True)]
    return [*values, *stacked]


def _fresh(like: Tensor, array: Array) -> Tensor:
    return Tensor(array, like.requires_grad)


def _flag(condition: Tensor) -> Tensor:
    """As ONNX wants a condition: a boolean without axes."""
    if condition.size != 1:
        raise ValueError(f"a condition must be one value, this one has shape {condition.shape}")
    return p.reshape(p.cast(condition, np.bool_), [])


def _check_alike(what: str, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    one, other = ([f"{tensor.dtype} {tensor.shape}" for tensor in several] for several in (first, second))
    if one != other:
        differing = next((f"{a} and {b}" for a, b in zip(one, other, strict=False) if a != b), f"{one} and {other}")
        raise TraceError(
            f"{what} not alike: {differing}",
            fix="make shapes and dtypes agree (astype, reshape, expand); a graph has one type per value",
        )


def _run_branch(inputs: Sequence[Tensor | None], attributes: Mapping[str, Any]) -> Sequence[Tensor]:
    return branch(cast(Tensor, inputs[0]), attributes["then_branch"], attributes["else_branch"])


def _run_loop(inputs: Sequence[Tensor | None], attributes: Mapping[str, Any]) -> Sequence[Tensor]:
    count, flag = p.constant(np.zeros((), np.int64)), p.constant(np.ones((), np.bool_))
    body = attributes["body"]
    carried = cast(Sequence[Tensor], inputs[2:])
    return loop(cast(Tensor, inputs[1]), carried, lambda *values: body(count, flag, *values))


def _run_scan(inputs: Sequence[Tensor | None], attributes: Mapping[str, Any]) -> Sequence[Tensor]:
    given, split = cast(Sequence[Tensor], inputs), len(inputs) - attributes["num_scan_inputs"]
    return scan_flat(attributes["body"], given[:split], given[split:], bool(attributes["scan_input_directions"][0]))


# How a plan runs the nodes that are no primitives.
RUNNERS: dict[str, Callable[[Sequence[Tensor | None], Mapping[str, Any]], Sequence[Tensor]]] = {
    "If": _run_branch,
    "Loop": _run_loop,
    "Scan": _run_scan,
}
