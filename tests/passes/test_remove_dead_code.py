from __future__ import annotations

import numpy as np

from edgec.passes import FixNames, RemoveDeadCode


def test_what_nothing_reads_is_removed(build, apply_pass, operators):
    model = build(
        "g (float[2] x, float[2] unused) => (float[2] y) { a = Exp(x) b = Add(a, w) y = Neg(x) }",
        w=np.zeros(2, np.float32),
    )
    result = apply_pass(RemoveDeadCode(), model)
    assert operators(model) == ["Neg"]
    assert result.changes == {"node": 2, "initializer": 1}
    assert [value.name for value in model.graph.inputs] == ["x", "unused"]


def test_nodes_and_values_get_names_of_their_own(build):
    model = build("g (float[2] x) => (float[2] y) { a = Exp(x) y = Exp(a) }")
    for node in model.graph:
        node.name = "same"
    model.graph.node(0).outputs[0].name = "y"
    assert FixNames()(model).modified
    assert len({node.name for node in model.graph}) == 2
    assert model.graph.outputs[0].name == "y"
    assert model.graph.node(0).outputs[0].name == "y_1"
    assert not FixNames()(model).modified
