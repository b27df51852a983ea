from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, parser

from edgec.errors import EdgecError, UnsupportedError
from edgec.frontend import import_model

DYNAMIC = """<ir_version: 8, opset_import: ["": 17]>
g (float[batch, 3, height, width] x, float[batch, 4] y) => (float[batch, out] z, float[batch, 4] w) {
    a = GlobalAveragePool(x)
    z = Flatten<axis=1>(a)
    w = Relu(y)
}"""


def dynamic() -> onnx.ModelProto:
    return parser.parse_model(DYNAMIC)


def with_weight() -> onnx.ModelProto:
    weight = onnx.numpy_helper.from_array(np.arange(4000, dtype=np.float32).reshape(4, 1000), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 1000])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_real_models_come_in_static_and_checked(model_name, real_model):
    model = real_model(model_name)
    assert model.opset_imports[""] == 22
    assert model.ir_version == 10
    assert all(value.shape.is_static() for value in (*model.graph.inputs, *model.graph.outputs))
    assert not {value.name for value in model.graph.inputs} & set(model.graph.initializers)
    assert all(node.name for node in model.graph)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_reference_results_that_came_with_the_models(real_model, data_dir, run_onnxruntime, assert_close):
    for name, folder in (("mnist8", "mnist8"), ("superres10", "superres10")):
        model = real_model(name)
        for case in sorted((data_dir / "models" / folder).glob("**/test_data_set_*")):
            given, expected = (
                onnx.numpy_helper.to_array(TensorProto.FromString((case / f"{kind}_0.pb").read_bytes()))
                for kind in ("input", "output")
            )
            inputs = {model.graph.inputs[0].name: given}
            (actual,) = run_onnxruntime(model, inputs).values()
            assert_close(actual, expected)


def test_binding_one_input_binds_the_symbol_for_the_others():
    model = import_model(dynamic(), input_shapes={"x": (2, 3, 8, 9)})
    assert [tuple(value.shape) for value in model.graph.inputs] == [(2, 3, 8, 9), (2, 4)]
    assert [tuple(value.shape) for value in model.graph.outputs] == [(2, 3), (2, 4)]


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ({}, "input 'x' leaves dimension 0 ('batch'), 2 ('height'), 3 ('width') open"),
        ({}, "--input-shape x:1x3x224x224"),
        ({"X": (1, 3, 8, 8)}, "the model has no input 'X'"),
        ({"image": (1, 3, 8, 8)}, "the model's inputs: x:batchx3xheightxwidth (float), y:batchx4 (float)"),
        ({"x": (1, 3, 8)}, "input 'x' has 4 dimensions, the given shape 1x3x8 has 3"),
        ({"x": (1, 4, 8, 8)}, "input 'x': dimension 1 is fixed to 3, the given shape 1x4x8x8 has 4"),
        ({"x": (0, 3, 8, 8)}, "dimension 0 of 0x3x8x8 must be at least 1"),
        ({"x": (1, 3, 8, 8), "y": (2, 4)}, "input 'y': dimension 0 ('batch') was already bound to 1"),
    ],
)
def test_shapes_that_do_not_fit(shapes, text):
    with pytest.raises(EdgecError) as caught:
        import_model(dynamic(), input_shapes=shapes)
    assert text in str(caught.value)


def test_placeholders_are_open_dimensions():
    """As Paddle's exporter writes it; these have no name that would tie them to each other."""
    proto = dynamic()
    (first, *_), (second, *_) = (value.type.tensor_type.shape.dim for value in proto.graph.input)
    first.dim_value, second.dim_value = -1, 0
    for dim in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "?"
    for value in proto.graph.output:
        value.type.tensor_type.shape.dim[0].dim_value = -1
    model = import_model(proto, input_shapes={"x": (2, 3, 8, 9), "y": (5, 4)})
    assert [tuple(value.shape) for value in model.graph.inputs] == [(2, 3, 8, 9), (5, 4)]
    assert [tuple(value.shape) for value in model.graph.outputs] == [(2, 3), (5, 4)]
    with pytest.raises(EdgecError, match=r"input 'y' leaves dimension 0 \('\?'\) open"):
        import_model(proto, input_shapes={"x": (2, 3, 8, 9)})


def test_batch_of_super_resolution_is_not_guessed(data_dir):
    with pytest.raises(EdgecError, match=r"input 'input' leaves dimension 0 \('batch_size'\) open"):
        import_model(data_dir / "models/superres10/super_resolution_10.onnx")


def test_shapes_that_the_model_cannot_take():
    proto = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
    g (float[n, 4] x) => (float[a, b] y) <int64[2] s = {3, 8}> { y = Reshape(x, s) z = Add(x, y) }""")
    with pytest.raises(EdgecError, match="shapes inside the model do not fit together"):
        import_model(proto, input_shapes={"x": (5, 4)})


def test_source_stays_as_it_was():
    proto = dynamic()
    before = proto.SerializeToString()
    import_model(proto, input_shapes={"x": (2, 3, 8, 9)})
    assert proto.SerializeToString() == before


def test_a_model_in_memory_is_taken_and_can_be_imported_again():
    first = import_model(with_weight(), name="mine")
    second = import_model(first)
    assert second is not first
    assert second.graph.name == "mine"
    assert ir.to_proto(second).SerializeToString() == ir.to_proto(first).SerializeToString()


def test_what_is_no_model_at_all():
    with pytest.raises(TypeError, match="not int"):
        import_model(3)


def test_scalars_stay_scalars():
    proto = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
    g (float[2] x) => (float[2] y) <float c = {6.0}> { y = Clip(x, , c) }""")
    model = import_model(proto)
    assert tuple(model.graph.initializers["c"].const_value.shape) == ()


def test_functions_are_inlined():
    proto = parser.parse_model("""<ir_version: 9, opset_import: ["": 18, "local": 1]>
    g (float[2, 3] x) => (float[2, 3] y) { y = local.twice(x) }
    <domain: "local", opset_import: ["": 18]> twice (a) => (b) { b = Add(a, a) }""")
    model = import_model(proto)
    assert [node.op_type for node in model.graph] == ["Add"]
    assert not model.functions


def test_external_data_is_loaded(tmp_path: Path):
    path = tmp_path / "m.onnx"
    onnx.save_model(with_weight(), path, save_as_external_data=True, location="m.bin", size_threshold=0)
    model = import_model(path)
    (tmp_path / "m.bin").unlink()
    np.testing.assert_array_equal(
        model.graph.initializers["w"].const_value.numpy(), np.arange(4000, dtype=np.float32).reshape(4, 1000)
    )
    with pytest.raises(EdgecError) as caught:
        import_model(path)
    assert "1 tensor(s) lie in external files that are missing or too short" in str(caught.value)
    assert "m.bin" in str(caught.value)
    (tmp_path / "m.bin").write_bytes(b"1234")
    with pytest.raises(EdgecError, match="has 4 bytes, tensor 'w' needs 16000"):
        import_model(path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "is a JPEG image, not an ONNX model"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG image"),
        (b"PK\x03\x04data", "torch.onnx.export"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"hello, this is no model\n", "is not an ONNX model"),
        (b"\x00" * 64, "is not an ONNX model"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, content, text):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(EdgecError) as caught:
        import_model(path)
    assert text in str(caught.value)
    assert "m.onnx" in str(caught.value)


def test_a_missing_file_and_a_directory(tmp_path: Path):
    with pytest.raises(EdgecError, match=r"no\.onnx' does not exist"):
        import_model(tmp_path / "no.onnx")
    (tmp_path / "inside.onnx").write_bytes(b"x")
    with pytest.raises(EdgecError, match=r"is a directory, not a model file; it holds inside\.onnx"):
        import_model(tmp_path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path):
    data = with_weight().SerializeToString()
    path = tmp_path / "m.onnx"
    cuts = [*range(1, 200), *range(200, len(data) - 200, 997), *range(len(data) - 200, len(data))]
    for cut in cuts:
        path.write_bytes(data[:cut])
        with pytest.raises(EdgecError, match=r"truncated|not an ONNX model"):
            import_model(path)


def test_a_tensor_with_too_little_data():
    proto = with_weight()
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]
    with pytest.raises(EdgecError, match=r"tensor 'w' holds 15996 bytes of data, its shape \(4, 1000\) needs 16000"):
        import_model(proto)


def test_an_invalid_graph():
    proto = with_weight()
    proto.graph.node[0].input[1] = "nowhere"
    with pytest.raises(EdgecError, match=r"the model is not valid ONNX: .*nowhere"):
        import_model(proto)


def test_inputs_that_are_no_tensors():
    value = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [2])
    node = helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([node], "g", [value], [output])
    with pytest.raises(EdgecError, match="input 's' is of type sequence; edgec takes tensors only"):
        import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_operator_sets_from_the_future():
    proto = with_weight()
    proto.opset_import[0].version = 99
    with pytest.raises(UnsupportedError, match="the model uses operator set 99, newer than edgec's 22"):
        import_model(proto)


def test_a_newer_operator_set_is_brought_back_where_nothing_new_is_used():
    proto = parser.parse_model("""<ir_version: 11, opset_import: ["": 23]>
    g (float[1, 4] x) => (float[4] y) { s = Constant<value_ints = [4]>() y = Reshape(x, s) }""")
    assert import_model(proto).opset_imports[""] == 22
    proto = parser.parse_model("""<ir_version: 11, opset_import: ["": 23]>
    g (float[1, 2, 3, 8] q) => (float[1, 2, 3, 8] y) { y = Attention(q, q, q) }""")
    with pytest.raises(UnsupportedError, match="the model uses operator set 23, newer than edgec's 22"):
        import_model(proto)
