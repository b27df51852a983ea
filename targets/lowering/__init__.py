"""From an IR graph to a list of scheduled-to-be kernels: emission, fusion, plan, memory."""

from edgec.targets.lowering import (  # noqa: F401  importing a family registers its lowerings
    activation,
    convolution,
    dynamic_quantization,
    elementwise,
    indexing,
    integer_products,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    shape,
    transposed_convolution,
)
from edgec.targets.lowering.call_layers import call_layers
from edgec.targets.lowering.emitter import LOWERINGS, Emitter
from edgec.targets.lowering.fusion import fuse
from edgec.targets.lowering.plan import Plan, TensorSpec, make_plan
from edgec.targets.lowering.work import Work, plan_work

__all__ = ["LOWERINGS", "Emitter", "Plan", "TensorSpec", "Work", "call_layers", "fuse", "make_plan", "plan_work"]
