"""Small quantized graphs, written node by node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser, shape_inference

from edgec.frontend import import_model

Array = NDArray[np.generic]


def graph(
    nodes: str, inputs: Mapping[str, Sequence[int]], outputs: Mapping[str, int], **constants: Array | float
) -> ir.Model:
    """A model of one node per line, like ``y = Relu(x)``.

    Args:
        nodes: In ONNX's text form.
        inputs: Shapes by name; names that start with "q" are uint8, with "s" int8, others float32.
        outputs: Element types by name.
        constants: Initializers by name; Python floats become float32 scalars.
    """
    types = {"q": TensorProto.UINT8, "s": TensorProto.INT8}
    made = helper.make_graph(
        [parser.parse_node(line.strip()) for line in nodes.strip().splitlines()],
        "quantized",
        [
            helper.make_tensor_value_info(name, types.get(name[0], TensorProto.FLOAT), shape)
            for name, shape in inputs.items()
        ],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [
            numpy_helper.from_array(np.asarray(np.float32(value) if isinstance(value, float) else value), name)
            for name, value in constants.items()
        ],
    )
    proto = helper.make_model(made, ir_version=10, opset_imports=[helper.make_opsetid("", 22)])
    return import_model(shape_inference.infer_shapes(proto))  # outputs must have a shape to be valid


def random_inputs_of(model: ir.Model, seed: int = 0) -> dict[str, Array]:
    """Normal floats, and integers over their whole range."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for value in model.graph.inputs:
        shape, dtype = value.shape.numpy(), value.dtype.numpy()
        if dtype.kind == "f":
            arrays[value.name] = rng.standard_normal(shape).astype(dtype)
        else:
            info = np.iinfo(dtype)
            arrays[value.name] = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    return arrays


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def scales_of_quantizers(model: ir.Model) -> list[float]:
    return [float(node.inputs[1].const_value.numpy()) for node in model.graph if node.op_type == "QuantizeLinear"]


def with_integer_outputs(model: ir.Model) -> onnx.ModelProto:
    """The model with every integer that a node makes as one more output."""
    proto = ir.to_proto(model)
    known = {value.name for value in proto.graph.output}
    for node in model.graph:
        for value in node.outputs:
            if value.dtype is not None and value.dtype.is_integer() and value.name not in known:
                proto.graph.output.append(onnx.ValueInfoProto(name=value.name))
    return proto
