"""What a compiled GPU kernel consists of."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["DeviceImage", "DeviceKernel", "Resources"]


@dataclass(frozen=True)
class Resources:
    """What one block or thread of a kernel takes of a multiprocessor, as ``ptxas`` reports it.

    Attributes:
        registers: 32-bit registers per thread.
        shared_bytes: Static shared memory per block, in bytes.
        spill_bytes: Bytes per thread stored to and loaded from local memory for want of registers.
        stack_bytes: Frame in local memory per thread, in bytes.
    """

    registers: int
    shared_bytes: int
    spill_bytes: int
    stack_bytes: int


@dataclass(frozen=True)
class DeviceImage:
    """A kernel's code for one architecture.

    Attributes:
        architecture: Compute capability as an integer: 87 for sm_87.
        kind: ``cubin`` runs on devices of the same major and the same or a higher minor number, ``ptx`` is compiled by
            the driver of any device of at least this capability.
        content: An ELF file, or zero-terminated text.
        toolkit: Version of the compiler, e.g. ``12.9``.
        resources: Of a cubin.
    """

    architecture: int
    kind: Literal["cubin", "ptx"]
    content: bytes
    toolkit: str
    resources: Resources | None = None

    @property
    def target(self) -> str:
        """Its architecture as compilers call it, e.g. ``sm_87``."""
        return f"{'compute' if self.kind == 'ptx' else 'sm'}_{self.architecture}"

    @property
    def driver(self) -> str:
        """The oldest driver that loads it, as the version of CUDA that it supports.

        Source: CUDA Compatibility, "Minor Version Compatibility": machine code of a toolkit runs with drivers of the
        same major version, PTX needs one at least as new as the toolkit.
        """
        return self.toolkit if self.kind == "ptx" else f"{self.toolkit.partition('.')[0]}.0"


@dataclass(frozen=True)
class DeviceKernel:
    """A kernel as the launcher takes it: pointers to its buffers are its only arguments, in the plan's order.

    Attributes:
        symbol: Name of the entry function in every image.
        images: Code, best first.
        grid: Blocks along x, y, z.
        block: Threads of a block along x, y, z.
        dynamic_shared_bytes: Shared memory to ask for at launch, in bytes.
        source: CUDA C that it was made of, to read.
    """

    symbol: str
    images: tuple[DeviceImage, ...]
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    dynamic_shared_bytes: int = 0
    source: str = ""

    def packed(self) -> bytes:
        """All of it as text that :meth:`unpacked` reads."""
        fields = asdict(self)
        for image in fields["images"]:
            image["content"] = base64.b64encode(image["content"]).decode()
        return json.dumps(fields).encode()

    @classmethod
    def unpacked(cls, content: bytes) -> DeviceKernel:
        fields = json.loads(content)
        images = tuple(
            DeviceImage(
                image["architecture"],
                image["kind"],
                base64.b64decode(image["content"]),
                image["toolkit"],
                image["resources"] and Resources(**image["resources"]),
            )
            for image in fields["images"]
        )
        grid, block = tuple(fields["grid"]), tuple(fields["block"])
        return cls(fields["symbol"], images, grid, block, fields["dynamic_shared_bytes"], fields["source"])
