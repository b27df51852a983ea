"""What a compilation leaves: the bundle's manifest and report, and the tensors they speak of."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING

import onnx_ir as ir

import edgec
from edgec.bundle import Bundle, TensorInfo, seal
from edgec.errors import EdgecError
from edgec.golden import has_float16

if TYPE_CHECKING:
    from edgec.compilation import Compilation
    from edgec.targets.profile import Profile

__all__ = ["graph_inputs", "seal_bundle", "target_row", "tensor_infos"]


def seal_bundle(c: Compilation) -> Bundle:
    """Clear away intermediate files and seal the rest with a manifest."""
    for intermediate in ("objects", "lib/build"):
        shutil.rmtree(c.root / intermediate)
    from edgec.targets.lowering import call_layers, plan_work

    report = {
        "passes": [
            {"name": r.name, "changed": r.changed, "nodes_before": r.nodes_before, "nodes_after": r.nodes_after}
            for r in c.reports
            if r.changed
        ],
        "kernels": len(set(c.symbols.values())),
        "steps": len(c.plan.calls),
        "work": [asdict(work) for work in plan_work(c.plan)],
        "layers": call_layers(c.plan, c.factors),
        **({"device_code": _device_code(c)} if c.device_kernels else {}),
    }
    (c.subfolder("reports") / "compile.json").write_text(json.dumps(report, indent=2) + "\n")
    return seal(
        c.folder,
        {
            "name": c.name,
            "edgec": edgec.__version__,
            "target": target_row(c.profile),
            "inputs": [_row(info) for info in tensor_infos(graph_inputs(c.imported))],
            "outputs": [_row(info) for info in tensor_infos(c.imported.graph.outputs)],
            "recipe": _recipe(c),
            "memory": {
                "params_bytes": len(c.plan.params),
                "arena_bytes": c.plan.arena_size_bytes,
                "arena_bound_bytes": c.plan.arena_bound_bytes,
            },
            **({} if c.fallback is None else {"fallback": _fallback(c.fallback)}),
            **({} if c.auto is None else {"quantization": c.auto.report.to_dict()}),
            "tuning": {"kernels": sorted(c.tuned)},
            "notes": sorted(set(c.notes)),
            "toolchain": _versions(),
        },
        {title: round(seconds, 3) for title, seconds in c.seconds.items()},
    )


def _recipe(c: Compilation) -> dict[str, object]:
    """How the model computes; of a quantized one, which operators leave open how its integers are rounded."""
    from edgec.frontend.integers import float_islands

    if has_float16(c.imported) or has_float16(c.simplified):
        return {"precision": "float16", "float32_products": c.float32_products}
    if c.precision == "tf32":
        return {"precision": "tf32"}
    if c.integers is c.imported:
        return {"precision": "float32"}
    return {"precision": "int8", "float_islands": float_islands(c.integers)}


def _fallback(c: Compilation) -> dict[str, object]:
    return {
        "instruction_set": c.profile.instruction_set.name,
        "cpu_features_required": list(c.profile.required_features),
        "params_bytes": len(c.plan.params),
        "arena_bytes": c.plan.arena_size_bytes,
    }


def _device_code(c: Compilation) -> list[dict[str, object]]:
    """Each kernel of a GPU model: how it is launched, and what it takes there."""
    return [
        {
            "kernel": name,
            "grid": list(kernel.grid),
            "block": list(kernel.block),
            "dynamic_shared_bytes": kernel.dynamic_shared_bytes,
            "images": [
                {
                    "kind": image.kind,
                    "architecture": image.target,
                    "toolkit": image.toolkit,
                    "driver": image.driver,
                    "size_bytes": len(image.content),
                    **(asdict(image.resources) if image.resources else {}),
                }
                for image in kernel.images
            ],
        }
        for name, kernel in sorted(c.device_kernels.items())
    ]


def target_row(profile: Profile) -> dict[str, object]:
    """What a bundle's manifest says about its target."""
    return {
        "name": profile.name,
        "description": profile.description,
        "arch": profile.arch,
        "llvm_cpu": profile.llvm_cpu,
        "instruction_set": profile.instruction_set.name,
        "cpu_features_required": list(profile.required_features),
        "link_targets": profile.link_targets,
        "qemu_cpu": profile.qemu_cpu,
        "big_cpus": list(profile.big_cpus),
        **({} if profile.gpu is None else {"gpu": asdict(profile.gpu)}),
    }


def _versions() -> dict[str, str]:
    packages = ("apache-tvm", "ziglang", "onnx", "onnx-ir", "numpy")
    return {"python": platform.python_version(), **{package: metadata.version(package) for package in packages}}


def _row(info: TensorInfo) -> dict[str, object]:
    return {"name": info.name, "shape": list(info.shape), "dtype": info.dtype}


def graph_inputs(model: ir.Model) -> list[ir.Value]:
    """The inputs that a caller must give: old files list initializers among them."""
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def tensor_infos(values: Sequence[ir.Value]) -> list[TensorInfo]:
    result = []
    for value in values:
        if value.shape is None or not value.shape.is_static() or value.dtype is None:
            raise EdgecError(
                f"tensor '{value.name}' has no fixed shape",
                where=f"shape {value.shape}",
                fix="bind symbolic dimensions with --input-shape NAME:1x3x224x224",
            )
        result.append(TensorInfo(str(value.name), tuple(int(d) for d in value.shape.numpy()), value.dtype.numpy().name))
    return result
