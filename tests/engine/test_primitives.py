"""Every sample of every primitive: value, gradients and dtype."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from edgec.engine import PRIMITIVES, Tensor, apply, check_grads, grad, record
from edgec.engine.arrays import is_float, onnx_from_dtype
from edgec.engine.registry import Sample
from edgec.errors import UnsupportedError
from tests.exact_products import without_saturation

EXTREME = [0.0, -0.0, 1e-38, -1e38, 1e38, np.inf, -np.inf, np.nan, 1e4, -1e4, 1.0]
MODERATE = [0.0, -0.0, 1e-30, -1e4, 1e4, 1e3, -1e3, 1.0]
# Compared at large finite values only.
_PASSES_NAN = "ONNX Runtime passes over nan in a maximum; here it goes through, as in NumPy and PyTorch"
_CELL = "ONNX Runtime makes numbers of nan in its vectorized gates"
_MATRIX = "ONNX Runtime uses an FFT, where infinity reaches other places than in a product with a matrix"
NOT_AT_INFINITY = {
    "ArgMax": _PASSES_NAN,
    "ArgMin": _PASSES_NAN,
    "DFT": _MATRIX,
    "DynamicQuantizeLinear": "the scale of an infinite range is not defined",
    "GRU": _CELL,
    "GlobalMaxPool": _PASSES_NAN,
    "GridSample": "ONNX Runtime leaves out pixels of weight zero; here zero times infinity is nan",
    "Hardmax": _PASSES_NAN,
    "LSTM": _CELL,
    "MaxPool": _PASSES_NAN,
    "MaxRoiPool": _PASSES_NAN,
    "ReduceLogSumExp": _PASSES_NAN,
    "ReduceMax": _PASSES_NAN,
    "ReduceMin": _PASSES_NAN,
    "RoiAlign": "ONNX Runtime leaves out pixels of weight zero; here zero times infinity is nan",
    "STFT": _MATRIX,
    "Unique": "nan equals nan here, as in NumPy",
}
_NO_ARRAY = "its inputs are numbers"
NEVER_EMPTY = {
    "BlackmanWindow": _NO_ARRAY,
    "HammingWindow": _NO_ARRAY,
    "HannWindow": _NO_ARRAY,
    "MelWeightMatrix": _NO_ARRAY,
    "RandomNormal": _NO_ARRAY,
    "RandomUniform": _NO_ARRAY,
    "Range": _NO_ARRAY,
    "edgec.RandomIntegers": _NO_ARRAY,
    "edgec.CTCLoss": "has tests of its own, against PyTorch",
    "ReduceMean": "ONNX Runtime says 0 for the mean of nothing; here it is nan, as in NumPy and PyTorch",
}
NEVER_EXTREME = {"LRN": "ONNX Runtime keeps a running sum, which loses small squares beside large ones"}
NO_HALF = {"BitCast": "reads the bits as a type of the same width"}

CASES = [
    pytest.param(name, sample, id=f"{name}-{index}")
    for name, made in sorted(PRIMITIVES.items())
    for index, sample in enumerate(made.samples())
]
REFERENCE_CASES = [case for case in CASES if case.values[1].reference]
GRADIENT_CASES = [case for case in CASES if PRIMITIVES[case.values[0]].differentiable]
OPSET = 22
MINIMUM_OPSET = 10
OrtErrors = (ort_state.Fail, ort_state.InvalidArgument, ort_state.InvalidGraph, ort_state.RuntimeException)
TYPED = {"Cast", "MelWeightMatrix"}  # an attribute says of which type the result is
SCHEMAS = [schema for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""]


def opset_of(name: str) -> int:
    """Opset 22, the newest version of an operator that came later, or the last one of an operator that was dropped."""
    if not any(version <= OPSET for version in schema_versions(name)):
        return max(schema_versions(name))
    schema = onnx.defs.get_schema(name, OPSET)
    return schema.since_version - 1 if schema.deprecated else OPSET


def run(name: str, sample: Sample, dtype: type | None = None) -> tuple[Tensor, ...]:
    inputs = [None if array is None else Tensor(converted(array, dtype)) for array in sample.inputs]
    return apply(name, inputs, sample.attributes, outputs=sample.outputs)


def converted(array: np.ndarray, dtype: type | None) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(dtype) if dtype is not None and is_float(array.dtype) else array


def one_node_model(name: str, sample: Sample, opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    names = ["" if array is None else f"x{index}" for index, array in enumerate(sample.inputs)]
    feed = {key: np.asarray(array) for key, array in zip(names, sample.inputs, strict=True) if array is not None}
    attributes = {
        key: numpy_helper.from_array(np.asarray(value)) if isinstance(value, np.ndarray) else value
        for key, value in sample.attributes.items()
    }
    outputs = [f"y{index}" for index in range(sample.outputs)]
    node = helper.make_node(name, names, outputs, **attributes)
    graph = helper.make_graph(
        [node],
        "one_node",
        [helper.make_tensor_value_info(key, onnx_from_dtype(array.dtype), array.shape) for key, array in feed.items()],
        [helper.make_empty_tensor_value_info(output) for output in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model) if all_typed(model) else model, feed


def all_typed(model: onnx.ModelProto) -> bool:
    return all(value.type.tensor_type.elem_type != TensorProto.UNDEFINED for value in model.graph.input)


def reference_outputs(name: str, sample: Sample) -> list[np.ndarray]:
    if sample.reference == "onnx":
        model, feed = one_node_model(name, sample, opset_of(name))
        with np.errstate(all="ignore"):
            return ReferenceEvaluator(model).run(None, feed)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    versions = sorted({version for version in schema_versions(name) if version <= opset_of(name)}, reverse=True)
    for opset in [opset_of(name), *(version - 1 for version in versions if version > MINIMUM_OPSET)]:
        # ONNX Runtime has some operators in their former version only, with the same meaning.
        model, feed = one_node_model(name, sample, opset)
        try:
            exact = without_saturation(model).SerializeToString()
            session = ort.InferenceSession(exact, options, providers=["CPUExecutionProvider"])
        except ort_state.NotImplemented:
            continue
        return session.run(None, feed)
    raise AssertionError(f"ONNX Runtime has no {name}; give its samples another reference")


def schema_versions(name: str) -> list[int]:
    return [schema.since_version for schema in SCHEMAS if schema.name == name]


@pytest.mark.parametrize(("name", "sample"), REFERENCE_CASES)
def test_value_agrees_with_the_reference(name: str, sample: Sample) -> None:
    assert_same(run(name, sample), reference_outputs(name, sample), sample.tolerance)


@pytest.mark.parametrize(("name", "sample"), CASES)
def test_dtype_is_preserved(name: str, sample: Sample) -> None:
    """float32 never turns into float64, float64 never loses precision, integers and booleans stay."""
    if name == "BitCast":
        pytest.skip("reads the bits as a type of the same width")
    single, double = run(name, sample, np.float32), run(name, sample, np.float64)
    has_float = any(array is not None and is_float(np.asarray(array).dtype) for array in sample.inputs)
    for a, b in zip(single, double, strict=True):
        if name in TYPED or not is_float(a.dtype) or not has_float:
            assert a.dtype == b.dtype
        else:
            assert (a.dtype, b.dtype) == (np.float32, np.float64)
            tolerance = max(sample.tolerance, 1e-5)
            fits = np.isfinite(a.data) | ~np.isfinite(b.data)  # float64 reaches further
            np.testing.assert_allclose(a.data[fits], b.data[fits], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "sample"), GRADIENT_CASES)
def test_gradients_agree_with_central_differences(name: str, sample: Sample) -> None:
    floats = [i for i, array in enumerate(sample.inputs) if array is not None and is_float(np.asarray(array).dtype)]
    varied = floats if sample.varied is None else list(sample.varied)
    if not varied:
        pytest.skip("a sample of values only")

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        inputs = [None if array is None else Tensor(converted(array, np.float64)) for array in sample.inputs]
        for index, value in zip(varied, values, strict=True):
            inputs[index] = value
        return tuple(
            output
            for output in apply(name, inputs, sample.attributes, outputs=sample.outputs)
            if is_differentiable_output(name, output)
        )

    points = [np.asarray(sample.inputs[index]) for index in varied]
    check_grads(function, *points, order=sample.order)


def is_differentiable_output(name: str, output: Tensor) -> bool:
    # The updated running statistics of BatchNormalization (shape (c,)) are not differentiable, by declaration.
    return name != "BatchNormalization" or output.ndim > 1


@pytest.mark.parametrize(("name", "sample"), GRADIENT_CASES)
def test_gradient_keeps_float32(name: str, sample: Sample) -> None:
    inputs = [None if array is None else Tensor(np.asarray(array)) for array in sample.inputs]
    wanted = [tensor for tensor in inputs if tensor is not None and is_float(tensor.dtype)]
    if sample.varied is not None:
        wanted = [tensor for index in sample.varied if (tensor := inputs[index]) is not None]
    for tensor in wanted:
        tensor.requires_grad = True
    output = apply(name, inputs, sample.attributes, outputs=sample.outputs)[0]
    if not wanted or not output.requires_grad:
        pytest.skip("a sample of values only")
    output.backward()
    for tensor in wanted:
        if tensor.grad is not None:
            assert tensor.grad.dtype == tensor.dtype
            assert tensor.grad.shape == tensor.shape


@pytest.mark.parametrize("name", sorted(set(PRIMITIVES) - set(NO_HALF)))
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_near_single(name: str, dtype: type) -> None:
    """The same rounded inputs give nearly the same result, in the type of the inputs."""
    for sample in PRIMITIVES[name].samples():
        # What nothing is varied in are extremes, which half precision cannot hold, and integers.
        if sample.varied is None or len(sample.varied):
            check_half_precision(name, sample, dtype)


def check_half_precision(name: str, sample: Sample, dtype: type) -> None:
    single = np.dtype(np.float32)
    rounded = [
        None if array is None else np.asarray(array).astype(dtype) if np.asarray(array).dtype == single else array
        for array in sample.inputs
    ]
    inputs = [None if array is None else Tensor(np.asarray(array)) for array in rounded]
    wide = [None if x is None else Tensor(x.data.astype(single)) if x.dtype == dtype else x for x in inputs]
    narrow = apply(name, inputs, sample.attributes, outputs=sample.outputs)
    expected = apply(name, wide, sample.attributes, outputs=sample.outputs)
    wide_is_other = any(x is not y for x, y in zip(inputs, wide, strict=True))
    step = 16 * float(ml_dtypes.finfo(dtype).eps)
    for a, b in zip(narrow, expected, strict=True):
        assert a.dtype == (dtype if b.dtype == single and wide_is_other and name not in TYPED else b.dtype)
        values, reference = a.data.astype(np.float64), b.data.astype(np.float64)
        scale = np.abs(reference[np.isfinite(reference)]).max(initial=0.0)
        np.testing.assert_allclose(values, reference, rtol=step, atol=step * scale)


def empty_samples(name: str) -> Iterator[Sample]:
    """Samples without elements: declared ones, else declared ones cut to none along the first axis."""
    declared = PRIMITIVES[name].samples()
    given = [sample for sample in declared if sample.inputs and sample.inputs[0] is not None]
    yield from (sample for sample in given if np.asarray(sample.inputs[0]).size == 0)
    for sample in given:
        first = np.asarray(sample.inputs[0])
        if not first.ndim:
            continue
        others = [None if array is None else np.asarray(array) for array in sample.inputs[1:]]
        along = [x[:0] if x is not None and x.ndim and len(x) == len(first) else x for x in others]
        for rest in (others, along):
            yield dataclasses.replace(sample, inputs=[first[:0], *rest], reference=sample.reference or "onnxruntime")


@pytest.mark.parametrize("name", sorted(set(PRIMITIVES) - set(NEVER_EMPTY)))
def test_no_elements(name: str) -> None:
    if not any(sample.inputs for sample in PRIMITIVES[name].samples()):
        pytest.skip("makes its result from attributes alone")
    for sample in empty_samples(name):
        if not sample.reference:
            run(name, sample)
            return
        try:
            expected = reference_outputs(name, sample)
        except (*OrtErrors, ValueError, IndexError, RuntimeError):
            continue  # this one cannot be cut like that
        assert_same(run(name, sample), expected, sample.tolerance)
        return
    raise AssertionError(f"no sample of {name} can be made empty; declare one")


def extreme_sample(name: str, values: list[float]) -> Sample | None:
    """A sample of several floats, with these values in the place of its first input."""
    for sample in PRIMITIVES[name].samples():
        first = np.asarray(sample.inputs[0]) if sample.inputs and sample.inputs[0] is not None else np.zeros(0)
        if sample.reference and first.dtype == np.float32 and first.size > 1:
            array = np.resize(np.array(values, np.float32), first.shape)
            return dataclasses.replace(sample, inputs=[array, *sample.inputs[1:]])
    return None


@pytest.mark.parametrize("name", sorted(set(PRIMITIVES) - set(NEVER_EXTREME)))
def test_extreme_values(name: str) -> None:
    values = MODERATE if name in NOT_AT_INFINITY else EXTREME
    sample = extreme_sample(name, values)
    if sample is not None:
        assert_same(run(name, sample), reference_outputs(name, sample), 1e-4)


def assert_same(results: Sequence[Tensor], expected: Sequence[np.ndarray], tolerance: float) -> None:
    assert len(results) == len(expected)
    for result, reference in zip(results, expected, strict=True):
        reference = np.asarray(reference)
        assert (result.dtype, result.shape) == (reference.dtype, reference.shape)
        finite = np.abs(reference[np.isfinite(reference)]).max(initial=0.0) if reference.dtype.kind == "f" else 0.0
        atol = max(tolerance, 1e-6 * min(float(finite), 1e9))  # large terms that cancel leave their rounding
        np.testing.assert_allclose(result.data, reference, rtol=tolerance, atol=atol)


def test_the_tables_of_exceptions_name_primitives() -> None:
    for table in (NEVER_EMPTY, NEVER_EXTREME, NOT_AT_INFINITY, NO_HALF, TYPED):
        assert set(table) <= set(PRIMITIVES)
    for name, reason in NOT_AT_INFINITY.items():
        sample = extreme_sample(name, EXTREME)
        assert sample is not None, f"{name}: {reason}"


@pytest.mark.parametrize(
    ("name", "sample"),
    [case for case in GRADIENT_CASES if case.values[0] in ("GRU", "LSTM", "RNN") and case.values[1].inputs[0].size],
)
@pytest.mark.parametrize("layout", [0, 1])
def test_the_short_gradient_of_a_recurrent_network_is_that_of_its_definition(
    name: str, sample: Sample, layout: int
) -> None:
    arrays = [None if array is None else converted(array, np.float64) for array in sample.inputs]
    if layout:
        arrays = [x if x is None or index in (1, 2, 3, 4, 7) else x.swapaxes(0, 1) for index, x in enumerate(arrays)]
    inputs = [None if x is None else Tensor(x, requires_grad=is_float(x.dtype)) for x in arrays]
    wanted = [x for x in inputs if x is not None and x.requires_grad]
    outputs = apply(name, inputs, {**sample.attributes, "layout": layout}, outputs=sample.outputs)
    weights = [Tensor(np.random.default_rng(index).standard_normal(y.shape)) for index, y in enumerate(outputs)]
    short = grad(outputs, wanted, weights, retain_graph=True)
    defined = grad(outputs, wanted, weights, create_graph=True)
    for ours, theirs in zip(short, defined, strict=True):
        np.testing.assert_allclose(ours.data, theirs.data, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(PRIMITIVES))
def test_every_primitive_is_complete(name: str) -> None:
    made = PRIMITIVES[name]
    assert made.samples(), f"{name} has no samples"
    assert made.differentiable == (made.rule is not None), f"{name} needs a gradient rule, or differentiable=False"


def test_meta_test_finds_an_incomplete_primitive() -> None:
    from edgec.engine.registry import Primitive

    bare = Primitive("Bare", np.add)
    assert not bare.samples()
    assert bare.differentiable != (bare.rule is not None)


def test_every_primitive_has_the_attributes_of_the_onnx_schema() -> None:
    for name, made in PRIMITIVES.items():
        if name.startswith("edgec."):
            continue
        schema = onnx.defs.get_schema(name, opset_of(name))
        # Attributes of other versions of the operator may be accepted too.
        known = {attribute for other in SCHEMAS if other.name == name for attribute in other.attributes}
        optional = {"sparse_value", "value_string", "value_strings"}  # strings and sparse tensors have no array
        missing = set(schema.attributes) - made.attribute_names - optional
        assert not missing, f"{name} lacks {missing}"
        assert made.attribute_names <= known, name


@pytest.mark.parametrize("name", sorted(name for name, made in PRIMITIVES.items() if made.expansion is not None))
def test_newer_operators_are_recorded_as_opset_22(name: str) -> None:
    for sample in PRIMITIVES[name].samples()[:2]:
        inputs = [None if array is None else Tensor(np.asarray(array)) for array in sample.inputs]
        expected = apply(name, inputs, sample.attributes, outputs=sample.outputs)
        with record([x for x in inputs if x is not None and is_float(x.dtype)]) as recording:
            recorded = apply(name, inputs, sample.attributes, outputs=sample.outputs)
        assert len(recorded) == len(expected)
        for a, b in zip(recorded, expected, strict=True):
            np.testing.assert_allclose(a.array, b.array, rtol=1e-6, atol=1e-7)
        for node in recording.nodes:
            assert any(version <= OPSET for version in schema_versions(node.op_type)), node.op_type


def test_operators_newer_than_opset_22_say_how_to_record_them() -> None:
    newer = {name for name in PRIMITIVES if schema_versions(name) and min(schema_versions(name)) > OPSET}
    assert {name for name, made in PRIMITIVES.items() if made.expansion is not None} == newer - {"BitCast"}


def test_the_norm_of_zeros_has_the_gradient_zero() -> None:
    x = Tensor(np.array([[0.0, 0.0], [3.0, 4.0]]), requires_grad=True)
    (norm,) = apply("ReduceL2", (x, Tensor(np.array([1]))))
    (slope,) = grad(norm.sum(), x, create_graph=True)
    np.testing.assert_allclose(slope.array, [[0.0, 0.0], [0.6, 0.8]])
    (again,) = grad(slope.sum(), x)
    assert np.isfinite(again.array).all()


def test_samples_do_not_change_between_calls() -> None:
    for made in PRIMITIVES.values():
        for one, other in zip(made.samples(), made.samples(), strict=True):
            for a, b in zip(one.inputs, other.inputs, strict=True):
                assert (a is None) == (b is None)
                assert a is None or np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")


def test_unknown_operator_and_attribute_are_named() -> None:
    with pytest.raises(UnsupportedError, match="NoSuchOp"):
        apply("NoSuchOp", [])
    with pytest.raises(TypeError, match="Relu has no attribute alpha"):
        apply("Relu", [Tensor(np.ones(1, np.float32))], {"alpha": 1.0})
    with pytest.raises(ValueError, match="Relu has 1 outputs, 2 were asked for"):
        apply("Relu", [Tensor(np.ones(1, np.float32))], outputs=2)
