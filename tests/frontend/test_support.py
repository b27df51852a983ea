from __future__ import annotations

import onnx_ir as ir
import pytest

from edgec.errors import UnsupportedError
from edgec.frontend import check_operators

MODEL = """<ir_version: 10, opset_import: ["": 22, "com.acme": 1]>
outer (float[2] x, bool c) => (float[2] y) {
    [n0] a = Sin(x)
    [n1] b = Sin(a)
    [n2] d = Sin(b)
    [n3] e = Sin(d)
    [n4] f = com.acme.Magic(e)
    [n5] y = If(c) <
        then_branch = t () => (float[2] u) { [n6] u = Cos(f) },
        else_branch = s () => (float[2] v) { [n7] v = Relu(f) }
    >
}"""


def test_every_unsupported_operator_is_named_at_once():
    model = ir.from_onnx_text(MODEL)
    with pytest.raises(UnsupportedError) as caught:
        check_operators(model, {"Relu", "If"})
    assert str(caught.value) == (
        "3 unsupported operators: Cos ×1 ('n6'); Sin ×4 ('n0', 'n1', 'n2' and 1 more); com.acme.Magic ×1 ('n4')\n"
        "  where: model 'outer'\n"
        "  fix:   export the model with other operators, or cut it before them"
    )
    assert caught.value.exit_code == 3


def test_supported_models_pass():
    check_operators(ir.from_onnx_text(MODEL), {"Relu", "If", "Sin", "Cos", "com.acme.Magic"})
