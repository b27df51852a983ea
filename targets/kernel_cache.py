"""A kernel becomes an object file, or the one that was made from the same kernel before."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path

import tvm
from tvm import tirx

from edgec.files import temporary_folder
from edgec.targets import schedules
from edgec.targets.cuda import schedules as cuda_schedules
from edgec.targets.cuda.architectures import ARCHITECTURES
from edgec.targets.cuda.device_code import compile_source, device_source
from edgec.targets.cuda.nvrtc import find_compiler
from edgec.targets.kernel_object import build_kernel
from edgec.targets.object_store import ObjectStore
from edgec.targets.profile import Profile
from edgec.targets.schedules.choice import Choice, Chooser, Site, default_choice

__all__ = ["BuiltKernel", "build", "kernel_key"]

# What a profile says that no kernel depends on. Everything else may matter to a schedule.
_NOT_IN_KERNELS = ("name", "description", "required_features", "link_targets", "qemu_cpu", "sources")


@dataclass(frozen=True)
class BuiltKernel:
    """An object file in memory (of a GPU: a packed `DeviceKernel`), and the function in it."""

    symbol: str
    content: bytes


def kernel_key(function: tirx.PrimFunc, profile: Profile) -> str:
    """SHA-256, in hexadecimal, of everything that becomes an object file: kernel, target, compiler.

    What is chosen for the kernel, by records or else, is not in it.
    """
    fields = dataclasses.asdict(profile)
    for name in _NOT_IN_KERNELS:
        del fields[name]
    parts = [_canonical_text(function), json.dumps(fields, sort_keys=True), _compiler_version()]
    if profile.gpu is not None:
        parts += [find_compiler(ARCHITECTURES[n]).version for n in (profile.gpu.capability, *profile.gpu.also)]
    return _hash(*parts)


def build(
    function: tirx.PrimFunc,
    key: str,
    profile: Profile,
    choose: Chooser = default_choice,
    store: ObjectStore | None = None,
) -> BuiltKernel:
    """The object file of a kernel, from the store or made and kept there.

    Two entries belong to a kernel: what there was to choose, so that the choice can be made again (there may be new
    records) without scheduling the kernel, and the object file by that choice.

    Args:
        function: The kernel, not scheduled.
        key: Its :func:`kernel_key`.
        profile: The target.
        choose: Is asked for the schedule's choice, if it has one; may be asked twice.
        store: None to make it in any case.
    """
    site_key = _hash(key, "site")
    if store is not None and (kept := store.read(site_key)) is not None:
        site = _read_site(kept)
        object_key = _hash(key, json.dumps(site and choose(site), sort_keys=True))
        if (content := store.read(object_key)) is not None:
            return BuiltKernel(_symbol(object_key), content)
    site, choice = None, None

    def remember(asked: Site) -> Choice:
        nonlocal site, choice
        site, choice = asked, choose(asked)
        return choice

    # The canonical one: debug sections hold the names of arguments, and every model is to get the same file.
    canonical = tvm.ir.load_json(_canonical_text(function))
    on_gpu = profile.gpu is not None
    scheduled = (cuda_schedules if on_gpu else schedules).schedule_kernel(canonical, profile, remember)
    object_key = _hash(key, json.dumps(choice, sort_keys=True))
    content = (_device_code if on_gpu else _object_file)(scheduled, _symbol(object_key), profile)
    if store is not None:
        store.write(object_key, content)
        store.write(site_key, json.dumps(site and dataclasses.asdict(site)).encode())
    return BuiltKernel(_symbol(object_key), content)


def _symbol(object_key: str) -> str:
    """The kernel's C function. In two models linked into one program, the same name is the same code."""
    return f"edgec_kernel_{object_key[:20]}"


def _hash(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read_site(content: bytes) -> Site | None:
    fields = json.loads(content)
    return fields and Site(fields["family"], fields["workload"], fields["default"], tuple(fields["candidates"]))


def _object_file(scheduled: tirx.PrimFunc, symbol: str, profile: Profile) -> bytes:
    with temporary_folder() as folder:
        file = Path(folder) / "kernel.o"
        build_kernel(scheduled, symbol, profile).write_to_file(str(file), "o")
        return file.read_bytes()


def _device_code(scheduled: tirx.PrimFunc, symbol: str, profile: Profile) -> bytes:
    assert profile.gpu is not None
    row = ARCHITECTURES[profile.gpu.capability]
    return compile_source(device_source(scheduled, symbol, row), profile.gpu).packed()


def _canonical_text(function: tirx.PrimFunc) -> str:
    """The kernel in TVM's JSON, which depends neither on its name nor on those of its arguments.

    An argument is called by the step of the model that makes it: with that name, a kernel would be another one in
    every model. Other names stay: the rules of the schedules read those of axes.
    """
    graph = json.loads(tvm.ir.save_json(function.without_attr("global_symbol")))
    nodes = graph["nodes"]
    params = nodes[nodes[graph["root_index"]]["data"]["params"]]["data"]
    # Plain numbers count as references here, so that at worst a name stays that could go.
    elsewhere: set[int] = set()
    for index, node in enumerate(nodes):
        data = node.get("data")
        if isinstance(data, dict):
            elsewhere.update(value for field, value in data.items() if index not in params or field != "name")
        elif isinstance(data, list):
            elsewhere.update(data)
    for number, index in enumerate(params):
        name = nodes[index]["data"]["name"]
        if name not in elsewhere:
            nodes[name]["data"] = f"argument{number}"
    return json.dumps(graph)


@cache
def _compiler_version() -> str:
    """Versions of TVM, and a hash of this package's sources: whoever edits a schedule gets new kernels."""
    digest = hashlib.sha256()
    for path, file in sorted(_sources(resources.files("edgec.targets"))):
        digest.update(path.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    versions = [metadata.version(package) for package in ("apache-tvm", "apache-tvm-ffi")]
    return " ".join([*versions, digest.hexdigest()])


def _sources(folder: Traversable, prefix: str = "") -> list[tuple[str, Traversable]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _sources(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith((".py", ".cuh")):
            found.append((prefix + entry.name, entry))
    return found
