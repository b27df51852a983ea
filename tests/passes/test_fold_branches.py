from __future__ import annotations

import numpy as np
import pytest

from edgec.passes import FoldBranches, simplify

CHOICE = """g (float[2] x) => (float[2] y, float[2] z) {
    y = If(c) <
        then_branch = t () => (float[2] u) { a = Neg(x) u = Exp(a) },
        else_branch = e () => (float[2] v) { v = Identity(x) }
    >
    z = If(c) <
        then_branch = t () => (float[2] u) { a = Abs(x) u = Sqrt(a) },
        else_branch = e () => (float[2] v) { v = Identity(w) }
    >
}"""


@pytest.mark.parametrize(("condition", "expected"), [(True, ["Neg", "Exp", "Abs", "Sqrt"]), (False, ["Identity"] * 2)])
def test_a_known_condition(build, apply_pass, operators, condition, expected):
    model = build(CHOICE, c=np.array(condition), w=np.ones(2, np.float32))
    result = apply_pass(FoldBranches(), model)
    assert result.changes == {"If": 2}
    smaller, _ = simplify(model)
    assert operators(smaller) == expected


def test_nested_branches(build, apply_pass, operators):
    model = build(
        """g (float[2] x) => (float[2] y) {
        y = If(c) <
            then_branch = t () => (float[2] u) {
                u = If(d) <
                    then_branch = t2 () => (float[2] u2) { u2 = Neg(x) },
                    else_branch = e2 () => (float[2] v2) { v2 = Exp(x) }
                >
            },
            else_branch = e () => (float[2] v) { v = Abs(x) }
        >
    }""",
        c=np.array(True),
        d=np.array(False),
    )
    apply_pass(FoldBranches(), model)
    assert "If" not in operators(model)
    assert operators(simplify(model)[0]) == ["Exp"]


def test_a_condition_that_is_computed_stays(build):
    model = build(
        """g (float[2] x, bool c) => (float[2] y) {
        y = If(c) <
            then_branch = t () => (float[2] u) { u = Neg(x) },
            else_branch = e () => (float[2] v) { v = Exp(x) }
        >
    }"""
    )
    result = FoldBranches()(model)
    assert not result.modified
    assert result.refused == ("If 'If': the condition depends on the input",)
