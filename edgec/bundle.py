"""The artifact of a compilation: one ``.edgec`` file that needs no TVM and no Python on the device.

A bundle is a zip archive, stored without compression::

    manifest.json              schema version, target, inputs and outputs, recipe, versions, SHA-256 of every file
    graph/model.onnx           the graph it was made from, opset 22; the reference of every check
    lib/libNAME.so             shared library, lib/libNAME.a static library, lib/NAME_runner self-contained executable
    lib/edgec.h, lib/NAME.h    headers for C and C++, lib/model.c the generated driver, to read
    params/params.bin          parameters for the libraries (the runner has its own copy)
    golden/inputs.npz          inputs and the engine's outputs for them, one leading sample axis
    golden/outputs.npz
    reports/compile.json       what the passes changed, number of kernels, work and layer of each step

The same model, target and versions give the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from edgec.errors import EdgecError
from edgec.files import atomic_write, temporary_folder

__all__ = ["SCHEMA_VERSION", "Bundle", "TensorInfo", "load"]

SCHEMA_VERSION = 1
"""Version of the manifest; a reader refuses newer ones."""

_MANIFEST = "manifest.json"
_PIECE_BYTES = 1 << 18
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # zip's earliest: the same model gives the same bytes


@dataclass(frozen=True)
class TensorInfo:
    """Name, shape and NumPy data type of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} {'x'.join(map(str, self.shape)) or 'scalar'}"


class Bundle:
    """A compiled model. Made by :func:`edgec.compile` and :func:`edgec.load`.

    Args:
        folder: Directory with the unpacked files; kept alive by this object.
        manifest: Content of ``manifest.json``.
        source: Where it was loaded from, for messages.
        phases_s: Duration of each compilation phase, in s; empty for a loaded bundle.
    """

    def __init__(
        self,
        folder: tempfile.TemporaryDirectory[str],
        manifest: Mapping[str, object],
        source: str = "in memory",
        phases_s: Mapping[str, float] | None = None,
    ) -> None:
        self._finalizer = weakref.finalize(self, folder.cleanup)
        self.phases_s = dict(phases_s or {})
        self.folder = Path(folder.name)
        self.manifest = manifest
        self.source = source

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def target(self) -> str:
        return str(self._section("target")["name"])

    @property
    def arch(self) -> str:
        return str(self._section("target")["arch"])

    @property
    def is_for_gpu(self) -> bool:
        return "gpu" in self._section("target")

    @property
    def precision(self) -> str:
        return str(self._section("recipe")["precision"])

    @property
    def float_islands(self) -> tuple[str, ...]:
        """Operators of a quantized model on whose rounding in float some of its integers depend."""
        islands = self._section("recipe").get("float_islands", ())
        return tuple(islands) if isinstance(islands, list | tuple) else ()

    @property
    def float32_products(self) -> tuple[str, ...]:
        """Nodes of a model in float16 that are computed in float32, because it would miss its policy otherwise."""
        products = self._section("recipe").get("float32_products", ())
        return tuple(products) if isinstance(products, list | tuple) else ()

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._tensors("inputs")

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return self._tensors("outputs")

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know: tuning records that did not serve, products that stay in float32."""
        notes = self.manifest.get("notes", ())
        return tuple(map(str, notes)) if isinstance(notes, list | tuple) else ()

    @property
    def library(self) -> Path:
        return self.folder / "lib" / f"lib{self.name}.so"

    @property
    def runner(self) -> Path:
        return self.folder / "lib" / f"{self.name}_runner"

    @property
    def glibc(self) -> str | None:
        """The oldest C library of GNU that library and runner start with; None if they need none."""
        needed = b"".join(path.read_bytes() for path in (self.library, self.runner))
        versions = {(int(major), int(minor)) for major, minor in re.findall(rb"GLIBC_(\d+)\.(\d+)", needed)}
        return "{}.{}".format(*max(versions)) if versions else None

    @property
    def params(self) -> Path:
        return self.folder / "params" / "params.bin"

    @property
    def graph(self) -> Path:
        return self.folder / "graph" / "model.onnx"

    @property
    def deployed_bytes(self) -> int:
        """Size on the device: the self-contained runner, which holds code and parameters."""
        return self.runner.stat().st_size

    def golden(self, kind: str) -> dict[str, np.ndarray]:
        """The golden ``"inputs"`` or ``"outputs"``, each with a leading sample axis."""
        with np.load(self.folder / "golden" / f"{kind}.npz") as file:
            return {info.name: file[info.name] for info in self._tensors(kind)}

    def run(
        self, inputs: Mapping[str, np.ndarray] | Sequence[np.ndarray], *, threads: int = 1, device: str | None = None
    ) -> dict[str, np.ndarray]:
        """Run one inference.

        Args:
            inputs: Arrays by input name, or in the order of :attr:`inputs`.
            threads: Threads that share the work.
            device: ``inprocess``, ``local``, ``qemu`` or ``ssh://[user@]host``; by default this process where
                the bundle's CPU is this machine's, else QEMU.

        Returns:
            Arrays by output name.

        Raises:
            EdgecError: A name, shape or dtype is not what the model takes.
            DeviceError: The bundle is for another CPU, or the device failed.
        """
        from edgec.devices import open_runner
        from edgec.devices.samples import ordered_inputs

        with open_runner(self, device, threads=threads) as runner:
            outputs = runner.run([ordered_inputs(self, inputs)])[0]
        return {info.name: array for info, array in zip(self.outputs, outputs, strict=True)}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the bundle to one file, whole or not at all."""
        target = Path(path)
        with atomic_write(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            names = [_MANIFEST, *sorted(self._section("files"))]
            for name in names:
                info = zipfile.ZipInfo(name, _ZIP_TIME)
                info.external_attr = (0o755 if name.endswith("_runner") else 0o644) << 16
                archive.writestr(info, (self.folder / name).read_bytes())
        self.source = str(target)
        return target

    def _tensors(self, kind: str) -> tuple[TensorInfo, ...]:
        rows = self.manifest[kind]
        assert isinstance(rows, list)
        return tuple(TensorInfo(row["name"], tuple(row["shape"]), row["dtype"]) for row in rows)

    def _section(self, name: str) -> Mapping[str, object]:
        section = self.manifest[name]
        assert isinstance(section, Mapping)
        return section

    def __repr__(self) -> str:
        return f"<Bundle {self.name} for {self.target}, {self.precision}, {self.source}>"


def seal(
    folder: tempfile.TemporaryDirectory[str], manifest: dict[str, object], phases_s: Mapping[str, float] | None = None
) -> Bundle:
    """Complete the manifest with the hashes of all files in ``folder`` and make it a bundle."""
    root = Path(folder.name)
    files = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file() and p.name != _MANIFEST):
        data = path.read_bytes()
        files[path.relative_to(root).as_posix()] = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "size_bytes": len(data),
        }
    complete = {"schema_version": SCHEMA_VERSION, **manifest, "files": files}
    (root / _MANIFEST).write_text(json.dumps(complete, indent=2) + "\n")
    return Bundle(folder, complete, phases_s=phases_s)


def load(path: str | os.PathLike[str]) -> Bundle:
    """Read a bundle and verify every file of it against the manifest.

    Raises:
        EdgecError: The file is missing, is no bundle, is damaged, or was written by a newer edgec.
    """
    source = Path(path)
    if not source.is_file():
        raise EdgecError(f"no such bundle: {source}", fix="make one with `edgec compile MODEL --target T -o OUT.edgec`")
    try:
        folder = temporary_folder()
        try:
            manifest = _unpack(source, Path(folder.name))
        except BaseException:
            folder.cleanup()
            raise
    except OSError as err:
        raise EdgecError(
            f"cannot unpack {source}: {err.strerror}",
            where=err.filename,
            fix="free some space, or set TMPDIR to a folder on another disk",
        ) from err
    return Bundle(folder, manifest, str(source))


_COMPILE_AGAIN = "the file is damaged: copy it again, or compile it again"
_REQUIRED = frozenset({"edgec", "files", "inputs", "memory", "name", "outputs", "recipe", "target", "toolchain"})

# What zipfile raises for a damaged archive, besides BadZipFile: flags and methods it does not know, offsets beyond
# the end, names that are no text.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError, ValueError)


def _unpack(source: Path, folder: Path) -> dict[str, object]:
    with source.open("rb") as file, _damage_of(source), zipfile.ZipFile(file) as archive:
        manifest = _read_manifest(archive, source)
        files = manifest["files"]
        assert isinstance(files, dict)
        for name, entry in files.items():
            relative = PurePosixPath(name)
            if relative.is_absolute() or ".." in relative.parts:
                raise EdgecError(f"{source} is not an edgec bundle", where=f"file name {name!r}")
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            _extract(archive, name, target, entry["sha256"], source)
            if name.endswith("_runner"):
                target.chmod(0o755)
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


@contextmanager
def _damage_of(source: Path) -> Iterator[None]:
    """Tell a damaged archive from a disk's failure."""
    try:
        yield
    except _DAMAGED as err:
        raise _unreadable(source, err) from err
    except OSError as err:
        if err.errno == errno.EINVAL:  # an offset before the beginning
            raise _unreadable(source, err) from err
        raise


def _read_manifest(archive: zipfile.ZipFile, source: Path) -> dict[str, object]:
    data = archive.read(_MANIFEST)
    try:
        manifest = json.loads(data)
        if not isinstance(manifest, dict) or "schema_version" not in manifest:
            raise ValueError("it has no schema version")
        _check_schema(manifest, source)
        if missing := sorted(_REQUIRED - manifest.keys()):
            raise ValueError(f"it has no {', '.join(missing)}")
        rows = manifest["files"]
        if not isinstance(rows, dict) or not all(isinstance(r, dict) and "sha256" in r for r in rows.values()):
            raise ValueError("it lists files without their SHA-256")
    except ValueError as err:
        raise EdgecError(
            f"{source} is not an edgec bundle", where=f"{_MANIFEST}: {err}", fix="pass an .edgec file"
        ) from err
    return manifest


def _extract(archive: zipfile.ZipFile, name: str, target: Path, sha256: str, source: Path) -> None:
    """In pieces: the memory for a whole file would take longer to get than the file."""
    digest = hashlib.sha256()
    with archive.open(name) as packed, target.open("wb") as file:
        while piece := packed.read(_PIECE_BYTES):
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != sha256:
        raise EdgecError(
            f"bundle {source.name} is corrupted: '{name}' does not match its SHA-256",
            where=str(source),
            fix=_COMPILE_AGAIN,
        )


def _unreadable(source: Path, err: Exception) -> EdgecError:
    """A damaged bundle, or something else: a bundle begins with the name of its manifest, and so does its directory."""
    if _MANIFEST.encode() in source.read_bytes():
        return EdgecError(f"bundle {source.name} is corrupted", where=f"{source}: {err}", fix=_COMPILE_AGAIN)
    return EdgecError(f"{source} is not an edgec bundle", where=str(err), fix="pass an .edgec file")


def _check_schema(manifest: Mapping[str, object], source: Path) -> None:
    version = manifest["schema_version"]
    if version != SCHEMA_VERSION:
        raise EdgecError(
            f"bundle {source.name} has schema version {version}; this edgec reads version {SCHEMA_VERSION}",
            where=f"{source}, written by edgec {manifest.get('edgec', '?')}",
            fix="install the edgec that wrote it, or compile the model again",
        )
