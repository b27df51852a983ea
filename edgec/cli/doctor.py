"""``edgec doctor``: what this machine has, and what each missing piece would be for."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from importlib import metadata, util

import click

import edgec
from edgec.cli.options import echo_json, json_option, print_table
from edgec.targets.object_store import open_store

__all__ = ["command"]

# Module, distribution, what it is for, how to get it.
_PACKAGES = (
    ("numpy", "numpy", "the engine", "pip install numpy"),
    ("onnx_ir", "onnx-ir", "the IR", "pip install onnx-ir"),
    ("tvm", "apache-tvm", "compiling", "pip install 'edgec[compile]'"),
    ("ziglang", "ziglang", "linking for every target", "pip install 'edgec[compile]'"),
    ("onnxruntime", "onnxruntime", "comparing with a peer", "pip install 'edgec[peers]'"),
)
_PROGRAMS = (
    ("qemu-aarch64", "checking Arm bundles without a board", "apt-get install qemu-user"),
    ("ssh", "running on a board", "apt-get install openssh-client"),
)


def _device_compilers() -> list[tuple[str, str, str, bool]]:
    """A row per version of CUDA that edgec makes code with; one of them is enough."""
    from edgec.targets.cuda.nvrtc import installed

    found = ", ".join(compiler.version for compiler in installed())
    return [("NVRTC", found or "pip install 'edgec[cuda]'", "compiling for NVIDIA GPUs", bool(found))]


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Check this machine for everything edgec can use."""
    rows = [("python", platform.python_version(), "", sys.version_info >= (3, 11))]
    for module, distribution, purpose, fix in _PACKAGES:
        present = util.find_spec(module) is not None
        rows.append((distribution, metadata.version(distribution) if present else fix, purpose, present))
    rows += _device_compilers()
    for program, purpose, fix in _PROGRAMS:
        path = shutil.which(program)
        rows.append((program, path or fix, purpose, path is not None))
    free_gib = shutil.disk_usage(tempfile.gettempdir()).free / 2**30
    rows.append(("temporary space", f"{free_gib:.1f} GiB free", "building", free_gib > 1))
    store = open_store()
    found = f"{store.folder}, {store.size_bytes() / 2**20:.1f} MiB" if store else "set EDGEC_CACHE_DIR"
    rows.append(("kernel cache", found, "compiling again", store is not None))
    if as_json:
        echo_json({"edgec": edgec.__version__, "checks": [dict(zip(("name", "value", "for", "ok"), r, strict=True)) for r in rows]})  # fmt: skip  # noqa: E501
        return
    click.echo(f"edgec {edgec.__version__} on {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs")
    print_table(
        ("", "found, or how to get it", "for", ""), [(n, v, p, "ok" if ok else "missing") for n, v, p, ok in rows]
    )
