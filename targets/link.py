"""Compile the driver and the runtime with zig's C compiler and link the three forms of the artifact.

``python -m ziglang cc`` brings a C library for every target, so that nothing of the host's toolchain is needed.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path

from edgec.errors import EdgecError
from edgec.targets.profile import Profile

__all__ = ["Artifact", "Program", "link", "link_runner"]

_FLAGS = ["-std=gnu11", "-O2", "-g0", "-fvisibility=hidden", "-fno-sanitize=all", "-Wall", "-Wextra", "-Werror"]


# zig's cache knows the working directory: from a new one it would build the C library again (a minute). All paths
# given to it are absolute.
_WORKING_DIRECTORY = Path(__file__).anchor

# TVM's kernels have helpers with default visibility, which would become exports of the shared library.
_EXPORTS = "{ global: edgec_*; local: *; };\n"


@dataclass(frozen=True)
class Program:
    """What is linked.

    Attributes:
        model: C identifier of the model.
        driver: Text of model.c.
        objects: Object files of the kernels.
        params: Parameters; embedded in the runner, and given to the libraries as a file or pointer.
        images: The code of a GPU's kernels by C symbol; None for a model that runs on the CPU.
        fallback: Text of a second C file, of the model for the CPU that runs where there is no GPU.
    """

    model: str
    driver: str
    objects: Sequence[Path]
    params: bytes
    images: Mapping[str, bytes] | None = None
    fallback: str | None = None


@dataclass(frozen=True)
class Artifact:
    """The linked files of one model."""

    library: Path
    static_library: Path
    runner: Path
    headers: tuple[Path, ...]


def link(program: Program, profile: Profile, folder: Path) -> Artifact:
    """Write the shared library, the static library with its headers, and the runner into ``folder``.

    Args:
        program: What is linked.
        profile: The target.
        folder: Existing folder, absolute; receives the files and a ``build`` folder with the intermediate ones.
    """
    model = program.model
    runtime = Path(str(resources.files("edgec.targets.runtime")))
    build = folder / "build"
    build.mkdir(exist_ok=True)
    source = build / "model.c"
    source.write_text(program.driver)
    core = [*_runtime_sources(runtime, program.images), *_image_sources(program.images, build / "images")]
    core += _fallback_source(program.fallback, build)
    system = _system_libraries(program.images)
    library_target = profile.link_targets["library"]
    library, executable = folder / f"lib{model}.so", folder / f"{model}_runner"
    static = folder / f"lib{model}.a"
    include = ["-I", str(runtime)]
    kernels = [str(path) for path in program.objects]

    def shared_library() -> None:
        exports = build / "exports.map"
        exports.write_text(_EXPORTS)
        flags = ["-target", library_target, *_FLAGS, "-fPIC", "-shared", "-s", "-Wl,-soname," + library.name]
        flags.append(f"-Wl,--version-script={exports}")
        _zig(["cc", *flags, *include, *map(str, [source, *core]), *kernels, *system, "-o", str(library)])

    def static_library() -> None:
        flags = ["-target", library_target, *_FLAGS, "-fPIC", "-DEDGEC_STATIC_LIBRARY", "-c"]
        archive_objects = []
        for file in [source, *core]:
            archive_objects.append(str(build / f"{model}_{file.stem}.o"))
            _zig(["cc", *flags, *include, str(file), "-o", archive_objects[-1]])
        _zig(["ar", "rcsD", str(static), *archive_objects, *kernels])

    def runner() -> None:
        link_runner(program, profile, folder)

    with ThreadPoolExecutor() as pool:
        for job in [pool.submit(task) for task in (shared_library, runner, static_library)]:
            job.result()
    headers = []
    for name, text in (
        ("edgec.h", (runtime / "edgec.h").read_text()),
        (f"{model}.h", f'#include "edgec.h"\n\nextern const edgec_model edgec_model_{model};\n'),
    ):
        (folder / name).write_text(text)
        headers.append(folder / name)
    return Artifact(library, static, executable, tuple(headers))


def link_runner(program: Program, profile: Profile, folder: Path) -> Path:
    """Write the self-contained executable ``<model>_runner`` into ``folder``; arguments as for :func:`link`."""
    images, params = program.images, program.params
    runtime = Path(str(resources.files("edgec.targets.runtime")))
    build = folder / "build"
    build.mkdir(exist_ok=True)
    source, executable = build / "runner_model.c", folder / f"{program.model}_runner"
    source.write_text(program.driver)
    (build / "params.bin").write_bytes(params)
    # A static program cannot open the GPU's driver.
    target = profile.link_targets["runner" if images is None else "library"]
    embedded = _embedded_params(build / "params.bin", params, runtime, target) if params else []
    flags = ["-target", target, *_FLAGS, "-s", *(["-static"] if "musl" in target else []), "-I", str(runtime)]
    sources = [source, *_runtime_sources(runtime, images), *_image_sources(images, build / "runner_images")]
    sources += [*_fallback_source(program.fallback, build / "runner_images"), *sorted(runtime.glob("runner*.c"))]
    files = [*map(str, [*sources, *embedded, *program.objects]), *_system_libraries(images)]
    _zig(["cc", *flags, *files, "-o", str(executable)])
    return executable


def _runtime_sources(runtime: Path, images: Mapping[str, bytes] | None) -> list[Path]:
    """The C files that every form of the artifact has."""
    core = sorted(p for p in runtime.glob("*.c") if not p.name.startswith(("runner", "embedded_params")))
    return core if images is None else core + sorted(runtime.glob("cuda/*.c"))


def _system_libraries(images: Mapping[str, bytes] | None) -> list[str]:
    return ["-lm", "-lpthread", *(["-ldl"] if images is not None else [])]


def _fallback_source(text: str | None, folder: Path) -> list[Path]:
    if text is None:
        return []
    folder.mkdir(exist_ok=True)
    source = folder / "fallback.c"
    source.write_text(text)
    return [source]


def _image_sources(images: Mapping[str, bytes] | None, folder: Path) -> list[Path]:
    """A C file that embeds the images; hashes in it make it differ when they do, as zig's cache does not see them."""
    if not images:
        return []
    folder.mkdir(exist_ok=True)
    text = "/* The code of the GPU's kernels. */\n"
    for symbol, content in images.items():
        file = folder / f"{symbol}.bin"
        file.write_bytes(content)
        directives = [
            '.pushsection .rodata.edgec_images, "a"',
            ".balign 64",
            f".globl {symbol}",
            f".hidden {symbol}",
            f"{symbol}:",
            f'.incbin "{file}"',
            ".popsection",
        ]
        lines = "\n".join('        "{}\\n"'.format(line.replace('"', '\\"')) for line in directives)
        text += f"\n/* SHA-256 {sha256(content).hexdigest()} */\n__asm__(\n{lines});\n"
        text += f"extern const unsigned char {symbol}[];\n"
    source = folder / "device_images.c"
    source.write_text(text)
    return [source]


def _embedded_params(file: Path, params: bytes, runtime: Path, target: str) -> list[str]:
    output = file.with_suffix(".o")
    definitions = [f'-DEDGEC_PARAMS_FILE="{file}"', f"-DEDGEC_PARAMS_SHA256={sha256(params).hexdigest()}"]
    _zig(["cc", "-target", target, *definitions, "-c", str(runtime / "embedded_params.c"), "-o", str(output)])
    return [str(output)]


def _zig(arguments: list[str]) -> None:
    if importlib.util.find_spec("ziglang") is None:
        raise EdgecError("compiling needs the C compiler of the package 'ziglang'", fix="pip install 'edgec[compile]'")
    result = subprocess.run(
        [sys.executable, "-m", "ziglang", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=_WORKING_DIRECTORY,
    )
    if result.returncode != 0:
        raise EdgecError(
            f"zig {arguments[0]} failed with exit code {result.returncode}",
            where="\n".join(result.stderr.strip().splitlines()[-12:]),
            fix="if the disk is not full, this is a bug of edgec: please report the command's output",
        )
