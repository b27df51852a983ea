"""What a user may hand in as a model, and how it becomes an IR graph."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

import edgec
from edgec.errors import EdgecError, UsageError

if TYPE_CHECKING:
    from edgec.engine.nn import Module

__all__ = ["InputSpec", "ModelSource", "call_reference", "model_name", "open_source", "origin", "read_model"]

_NETWORK = re.compile(r"(?:edgec\.)?models\.([\w-]+)")

ModelSource: TypeAlias = "str | Path | onnx.ModelProto | ir.Model | Module | Callable[..., object]"
"""A path to .onnx, an IR or ONNX model, an engine module, or ``"package.module:callable"`` that gives one of these;
``"models.NAME"`` is a network of `edgec.models`, and a .safetensors file what ``edgec train`` wrote."""

InputSpec: TypeAlias = "Mapping[str, Sequence[int] | np.ndarray]"
"""Shapes (or example arrays) by input name."""


def read_model(source: ModelSource, inputs: InputSpec | None = None) -> ir.Model:
    """The model as an IR graph at the opset edgec works in, with fixed shapes.

    Args:
        source: See :data:`ModelSource`.
        inputs: Shapes of symbolic inputs; for an engine module, the shapes or example arrays to trace it with. By
            default those that the module states as ``input_shapes``.

    Raises:
        EdgecError: The file or the model is not usable; the message says why.
    """
    from edgec import frontend

    source = open_source(source)
    if isinstance(source, str | Path | onnx.ModelProto | ir.Model):
        shapes = {name: _shape(spec) for name, spec in inputs.items()} if inputs else None
        return frontend.import_model(source, input_shapes=shapes)
    if not callable(source):
        raise TypeError(f"a model is a path, an ONNX model, an engine module or a function, not {type(source)}")
    inputs = inputs or getattr(source, "input_shapes", None)
    if not inputs:
        raise UsageError(
            "an engine module needs example inputs to be traced",
            fix="pass inputs={'x': (1, 3, 224, 224)} or --input-shape x:1x3x224x224",
        )
    examples = [_example(spec) for spec in inputs.values()]
    try:
        return frontend.trace(source, *examples, input_names=list(inputs))
    except EdgecError:
        raise
    except Exception as err:  # the user's own code ran, on shapes it may not be made for
        given = ", ".join(f"{name}: {array.dtype} {array.shape}" for name, array in zip(inputs, examples, strict=True))
        raise EdgecError(
            f"tracing the model failed with {type(err).__name__}: {err}",
            where=f"{origin(err)}, inputs {given}",
            fix="run the model on arrays of these shapes in Python first",
        ) from err


def open_source(source: ModelSource, checkpoint: Path | None = None) -> ModelSource:
    """What a text stands for: a network by its name, a checkpoint, or what a reference gives; all else as it is.

    Args:
        source: See :data:`ModelSource`.
        checkpoint: Parameters to load into the engine module that `source` is.

    Raises:
        UsageError: There is no such network, or `source` is nothing that takes a checkpoint.
        EdgecError: The reference or the checkpoint is not usable.
    """
    opened = _open_text(source) if isinstance(source, str | Path) else source
    if checkpoint is None:
        return opened
    from edgec.engine.nn import Module

    if not isinstance(opened, Module):
        raise UsageError(f"'{source}' takes no checkpoint", fix="--checkpoint is for networks of the engine")
    if not checkpoint.is_file():
        raise EdgecError(f"no such file: {checkpoint}", fix="edgec train NAME writes checkpoints")
    opened.load(checkpoint)
    return opened


def _open_text(source: str | Path) -> ModelSource:
    text = str(source)
    if Path(text).suffix == ".safetensors" and Path(text).is_file():
        from edgec.training import load_checkpoint

        return load_checkpoint(Path(text))
    if Path(text).exists():
        return source
    if ":" in text:
        return open_source(_call_reference(text))
    if match := _NETWORK.fullmatch(text):
        from edgec.training import find_network

        return find_network(match[1])()
    return source


def model_name(source: ModelSource) -> str:
    """A name for the artifact, from the file or the module."""
    if isinstance(source, str | Path):
        text = str(source)
        if (match := _NETWORK.fullmatch(text)) and not Path(text).exists():
            return match[1].lower()
        return text.rsplit(":", 1)[-1] if ":" in text and not Path(text).exists() else Path(text).stem
    if isinstance(source, onnx.ModelProto):
        return source.graph.name or "model"
    if isinstance(source, ir.Model):
        return source.graph.name or "model"
    return str(getattr(source, "__name__", type(source).__name__)).lower()


def _call_reference(reference: str) -> ModelSource:
    """The model that ``package.module:callable`` gives."""
    fix = "give a path to an .onnx file, or package.module:callable of an importable module"
    result = call_reference(reference, "model", fix)
    from edgec.engine.nn import Module

    if not isinstance(result, Module | onnx.ModelProto | ir.Model | str | Path):
        raise EdgecError(f"'{reference}' gives a {type(result).__name__}, not a model", fix="return an engine module")
    return result


def call_reference(reference: str, what: str, fix: str, *, calls: bool = True) -> object:
    """What ``package.module:callable`` gives; the working directory counts as an import path.

    Args:
        reference: The text.
        what: It should give, for messages.
        fix: For messages.
        calls: Whether a function is called, or is itself what is wanted.

    Raises:
        EdgecError: It cannot be imported, or failed.
    """
    module_name, _, attribute = reference.partition(":")
    if module_name.startswith("models.") or module_name == "models":
        module_name = f"edgec.{module_name}"
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        member = getattr(import_module(module_name), attribute)
        from edgec.engine.nn import Module

        return member() if calls and callable(member) and not isinstance(member, Module) else member
    except EdgecError:
        raise
    except Exception as err:  # the user's own code ran: whatever it raises
        raise EdgecError(
            f"cannot load the {what} '{reference}'",
            where=str(err) if isinstance(err, ImportError | AttributeError) else f"{origin(err)}: {err}",
            fix=fix,
        ) from err


def origin(err: Exception) -> str:
    """Type and line of an error in the user's code: the last frame that is not edgec's own."""
    ours = tuple(edgec.__path__)
    frames = traceback.extract_tb(err.__traceback__)
    last = next((f for f in reversed(frames) if not f.filename.startswith(ours)), frames[-1])
    return f"{last.filename}:{last.lineno}: {type(err).__name__}"


def _shape(spec: Sequence[int] | np.ndarray) -> tuple[int, ...]:
    return tuple(spec.shape) if isinstance(spec, np.ndarray) else tuple(int(d) for d in spec)


def _example(spec: Sequence[int] | np.ndarray) -> np.ndarray:
    if isinstance(spec, np.ndarray):
        return spec
    return np.random.default_rng(0).standard_normal(tuple(spec)).astype(np.float32)
