"""The state of one compilation: what its phases hand on to each other."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir

from edgec.dump import Dump
from edgec.progress import Progress
from edgec.sources import InputSpec, ModelSource

if TYPE_CHECKING:
    import tvm

    from edgec.auto_report import Aim, AutoQuantization
    from edgec.passes import PassReport
    from edgec.samples import SampleSource
    from edgec.targets.cuda.kernels import DeviceKernel
    from edgec.targets.lowering import Plan
    from edgec.targets.object_store import ObjectStore
    from edgec.targets.profile import Profile
    from edgec.targets.tuning import Records

__all__ = ["Compilation"]


@dataclass
class Compilation:
    """What the phases hand on to each other; each fills in what comes after the fields it reads."""

    source: ModelSource
    inputs: InputSpec | None
    name: str
    profile: Profile
    folder: tempfile.TemporaryDirectory[str]
    dump: Dump
    progress: Progress
    records: Records
    store: ObjectStore | None = None
    quantize: str | None = None
    calibration: SampleSource | None = None
    samples: Mapping[str, np.ndarray] | None = None
    aim: Aim | None = None
    auto: AutoQuantization | None = None
    precision: Literal["fp32", "tf32", "fp16"] | None = None
    imported: ir.Model = field(init=False)
    integers: ir.Model = field(init=False)
    simplified: ir.Model = field(init=False)
    reports: tuple[PassReport, ...] = ()
    float32_products: list[str] = field(default_factory=list)
    module: tvm.IRModule = field(init=False)
    factors: Mapping[bytes, tuple[int, list[str]]] = field(default_factory=dict)
    plan: Plan = field(init=False)
    objects: list[Path] = field(default_factory=list)
    device_kernels: dict[str, DeviceKernel] = field(default_factory=dict)
    has_fallback: bool = False
    fallback: Compilation | None = None
    symbols: dict[str, str] = field(default_factory=dict)
    tuned: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    driver: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return Path(self.folder.name)

    def subfolder(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(exist_ok=True)
        return path
