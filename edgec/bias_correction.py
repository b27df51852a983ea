"""Let biases take back what rounding adds to the outputs of layers on average, as it is measured."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.engine import Tensor, to_tensor
from edgec.frontend import execute
from edgec.frontend.executor import Array, run_node
from edgec.frontend.values import is_default_op, only_consumer, static_shape
from edgec.passes.quantization import Placement

__all__ = ["correct_biases", "mean_outputs", "rows_for_means"]

_MOST_ELEMENTS = 2**26
"""Of one value over all rows: 256 MiB."""

Row = Mapping[str, Array]
Means = NDArray[np.float64]


def rows_for_means(model: ir.Model, examples: Sequence[Row]) -> Sequence[Row]:
    """As many samples as memory has room for, with one value inside the model for each; four at least."""
    shapes = [static_shape(value) for node in model.graph for value in node.outputs]
    largest = max((int(np.prod(shape)) for shape in shapes if shape), default=1)
    return examples[: max(4, _MOST_ELEMENTS // largest)]


def mean_outputs(model: ir.Model, placement: Placement, rows: Sequence[Row]) -> dict[str, Means]:
    """What the channels of linear operators give out on average for each row, (rows, output channels) by node name."""
    roots = {str(unit.root.outputs[0].name): unit.root for unit in placement.units if unit.is_linear}
    found: dict[str, list[Means]] = {}

    def watch(name: str, array: Array) -> None:
        if name in roots:
            found.setdefault(str(roots[name].name), []).append(_channel_means(roots[name], array))

    for row in rows:
        execute(model, row, hook=watch)
    return {name: np.stack(means) for name, means in found.items()}


def correct_biases(quantized: ir.Model, expected: Mapping[str, Means], rows: Sequence[Row]) -> None:
    """Change the integers of biases so that linear operators give out on average what they do in the float model.

    Layer by layer, in the graph's order, each with all before it quantized and corrected. What is alike in many places
    (the paper behind a text, the padding beside it) is rounded the same way in all of them, and its error does not
    average out.

    Args:
        quantized: By `InsertPairs`; changed in place.
        expected: `mean_outputs` of the float model.
        rows: What these come from.

    Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2
    and appendix D (empirical bias correction).
    """
    graph = quantized.graph
    constants = {v: to_tensor(v.const_value.numpy()) for v in graph.initializers.values() if v.const_value is not None}
    states: list[dict[ir.Value, Tensor]] = [
        {value: to_tensor(np.asarray(row[str(value.name)])) for value in graph.inputs} for row in rows
    ]
    last = {value: node for node in graph for value in node.inputs if value is not None}
    for node in list(graph):
        if all(value is None or value in constants for value in node.inputs):
            constants.update(_outputs(node, constants))
            continue
        for state in states:
            state.update(_outputs(node, ChainMap(state, constants)))
        bias = _bias_maker(node) if node.name in expected else None
        if bias is not None:
            actual = np.stack([_channel_means(node, state[node.outputs[0]].numpy()) for state in states])
            added = _add_to_bias(bias, _certain_mean(expected[str(node.name)] - actual))
            constants.update(_outputs(bias, constants | _read_again(bias)))
            if bias.outputs[0] in node.inputs:
                for state in states:
                    state[node.outputs[0]] = to_tensor(state[node.outputs[0]].numpy() + _spread(node, added))
        for value in (*node.inputs, *node.outputs):
            if value is not None and last.get(value, node) is node:
                for state in states:
                    state.pop(value, None)


def _certain_mean(differences: Means) -> Means:
    """The mean over rows, less what may be chance: (rows, channels) -> (channels,).

    Source: James and Stein 1961, "Estimation with Quadratic Loss", for each channel on its own.
    """
    mean, rows = differences.mean(axis=0), len(differences)
    if rows == 1:
        return np.zeros_like(mean)
    doubt = differences.var(axis=0, ddof=1) / rows
    return np.asarray(mean * np.maximum(0.0, 1 - doubt / np.maximum(np.square(mean), 1e-300)), np.float64)


def _outputs(node: ir.Node, known: Mapping[ir.Value, Tensor]) -> dict[ir.Value, Tensor]:
    results = run_node(node, [None if value is None else known[value] for value in node.inputs])
    return dict(zip(node.outputs, results, strict=False))


def _read_again(node: ir.Node) -> dict[ir.Value, Tensor]:
    value = node.inputs[0]
    assert value is not None and value.const_value is not None
    return {value: to_tensor(value.const_value.numpy())}


def _bias_maker(node: ir.Node) -> ir.Node | None:
    """The DequantizeLinear of the bias that is added to the results of a linear operator; None if there is none."""
    if node.op_type == "MatMul":
        adder = only_consumer(node.outputs[0])
        others = [] if not is_default_op(adder, "Add") or adder is None else adder.inputs
    else:
        others = node.inputs[2:]
    for value in others:
        maker = None if value is None else value.producer()
        if maker is not None and is_default_op(maker, "DequantizeLinear"):
            integers = maker.inputs[0]
            if integers is not None and integers.is_initializer() and integers.dtype == ir.DataType.INT32:
                return maker
    return None


def _add_to_bias(maker: ir.Node, difference: Means) -> NDArray[np.float32]:
    """What was added in the end, (output channels,): whole steps."""
    integers, scales = maker.inputs[:2]
    assert integers is not None and scales is not None
    assert integers.const_value is not None and scales.const_value is not None
    before, scale = integers.const_value.numpy(), scales.const_value.numpy().reshape(-1).astype(np.float64)
    limit = 2**31 - 1
    after = np.clip(before.reshape(-1) + np.rint(difference / scale), -limit, limit).astype(np.int32)
    integers.const_value = ir.tensor(after.reshape(before.shape), name=integers.name)
    return np.asarray((after.astype(np.float64) - before.reshape(-1)) * scale, np.float32)


def _channel_means(node: ir.Node, array: Array) -> Means:
    """(output channels,)"""
    axis = _channel_axis(node, array.ndim)
    return np.asarray(array.mean(axis=tuple(a for a in range(array.ndim) if a != axis), dtype=np.float64), np.float64)


def _spread(node: ir.Node, channels: NDArray[np.float32]) -> NDArray[np.float32]:
    """In a shape that is added to an output."""
    shape = static_shape(node.outputs[0])
    assert shape is not None
    return channels.reshape(-1, *[1] * (len(shape) - 1 - _channel_axis(node, len(shape))))


def _channel_axis(node: ir.Node, rank: int) -> int:
    return 1 if node.op_type in ("Conv", "ConvTranspose") else rank - 1
