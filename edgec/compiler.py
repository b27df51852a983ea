"""The compiler: every phase from a model to a bundle, in one list."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx_ir as ir

from edgec.bundle import Bundle
from edgec.compilation import Compilation
from edgec.dump import Dump
from edgec.errors import UsageError
from edgec.files import folder_unless_failed, temporary_folder
from edgec.golden import golden_samples, has_float16, reference_model, save_arrays
from edgec.manifest import graph_inputs, seal_bundle, tensor_infos
from edgec.progress import Progress, silent
from edgec.requirements import check_memory, in_precision, require_device_compiler, require_toolchain
from edgec.sources import InputSpec, ModelSource, model_name, read_model

if TYPE_CHECKING:
    from edgec.accuracy import Metric
    from edgec.auto_report import Aim, AutoQuantization
    from edgec.quantization import Quantization
    from edgec.samples import SampleSource
    from edgec.targets.lowering import Plan
    from edgec.targets.profile import Profile

__all__ = ["PHASES", "artifact_name", "compile", "plan_model"]

MOST_SAMPLES = 3
"""That float16 is judged by: the engine executes the graph many times on each."""


def read(c: Compilation) -> None:
    """Any kind of model -> IR at one opset, shapes fixed."""
    from edgec.engine.registry import PRIMITIVES
    from edgec.frontend import check_operators
    from edgec.targets.lowering import LOWERINGS

    c.imported = read_model(c.source, c.inputs)
    c.dump.graph("imported", c.imported)
    check_operators(c.imported, {*PRIMITIVES, *LOWERINGS})


def quantize(c: Compilation) -> None:
    """Float IR -> QDQ IR, where that was asked for; it is the reference from then on."""
    if c.quantize is None:
        return
    from edgec.quantization import QuantizationWarning, Settings, prepare

    made: Quantization | AutoQuantization
    if c.aim is None:
        made = prepare(c.imported, c.calibration, Settings(), progress=c.progress).quantize()
    else:
        made = c.auto = _quantize_auto(c, c.aim)
    for note in made.notes:
        warnings.warn(note, QuantizationWarning, stacklevel=4)
    c.imported = made.model
    c.dump.graph("quantized", c.imported)


def _quantize_auto(c: Compilation, aim: Aim) -> AutoQuantization:
    """Compile and measure, with the same options, as often as it takes to decide."""
    from edgec.auto_quantization import quantize_auto, timer_for

    def build(model: ir.Model, target: str) -> Bundle:
        # Scores are those of integers, which every target computes alike: float16 is only for the times.
        precision = c.precision if target == c.profile.name else None
        cache = c.store is not None
        return compile(model, target=target, name=c.name, cache=cache, precision=precision, progress=c.progress)

    assert c.calibration is not None
    timer = timer_for(c.profile.arch, c.profile.name, aim.device)
    made = quantize_auto(
        c.imported, c.calibration, aim, target=c.profile.name, build=build, timer=timer, progress=c.progress
    )
    made.save(c.subfolder("reports"))
    return made


def integerize(c: Compilation) -> None:
    """Quantized islands -> integer operators, on bytes of the signedness that the target's instructions want."""
    from edgec.frontend.integers import integer_form
    from edgec.passes import UnifySignedness

    c.integers = integer_form(c.imported)
    if c.integers is c.imported:
        return
    if (dot := c.profile.dot_product) is not None:
        UnifySignedness(dot.data_dtype)(c.integers)
    c.dump.graph("integers", c.integers)


def simplify(c: Compilation) -> None:
    """IR -> smaller IR that computes the same."""
    from edgec import passes
    from edgec.frontend import check_operators
    from edgec.targets.lowering import LOWERINGS

    c.simplified, c.reports = passes.simplify(c.integers, dump=lambda _, name, model: c.dump.graph(name, model))
    check_operators(c.simplified, LOWERINGS)


def convert_precision(c: Compilation) -> None:
    """Floats -> float16, where that was asked for or the model has it, if the target computes with it, else float32."""
    from edgec.passes import ConvertPrecision

    if c.precision is None and not has_float16(c.simplified):
        return
    is_half = c.precision not in ("fp32", "tf32") and c.profile.has_float16
    convert = ConvertPrecision(
        ir.DataType.FLOAT16 if is_half else ir.DataType.FLOAT,
        keeps_float32=c.precision is None,
        has_wide_sums=c.profile.gpu is not None,
    )
    if is_half and c.calibration is not None and c.quantize is None:
        from edgec.samples import stack_samples

        c.samples = stack_samples(c.calibration, tensor_infos(graph_inputs(c.simplified)), MOST_SAMPLES)
    if is_half and c.integers is c.imported:
        from edgec.half_precision import keep_float32, products_among

        convert, note = keep_float32(convert, c.simplified, c.samples, c.progress)
        c.float32_products = products_among(convert.kept, c.simplified)
        c.notes += [note] if note else []
    if convert(c.simplified).modified:
        c.dump.graph("precision", c.simplified)


def lower(c: Compilation) -> None:
    """IR -> Relax, with layouts chosen and weights packed."""
    from edgec.targets.lowering import Emitter

    emitter = Emitter(c.profile)
    c.module = emitter.emit_graph(c.simplified.graph)
    c.factors = emitter.factors
    c.dump.text("lowered", "py", lambda: c.module.script(show_meta=False))


def fuse(c: Compilation) -> None:
    """Relax -> kernels, each with its bias, residual and activation."""
    from edgec.targets import lowering

    c.module = lowering.fuse(c.module)
    c.dump.text("fused", "py", lambda: c.module.script(show_meta=False))


def plan(c: Compilation) -> None:
    """Relax -> ordered kernel calls on one arena."""
    from edgec.targets.lowering import TensorSpec, make_plan

    inputs, outputs = (
        [TensorSpec(info.name, info.shape, info.dtype) for info in tensor_infos(values)]
        for values in (graph_inputs(c.simplified), c.simplified.graph.outputs)
    )
    c.plan = make_plan(c.module, inputs, outputs)
    check_memory(c.plan, c.profile)


def build_kernels(c: Compilation) -> None:
    """TensorIR -> scheduled -> one object file per distinct kernel, or code of the GPU."""
    from edgec.targets import kernel_cache
    from edgec.targets.cuda.kernels import DeviceKernel
    from edgec.targets.tuning import Recorded, cpu_key

    folder = c.subfolder("objects")
    names: dict[str, list[str]] = {}
    for name in dict.fromkeys(call.kernel for call in c.plan.calls if call.kernel in c.plan.kernels):
        names.setdefault(kernel_cache.kernel_key(c.plan.kernels[name], c.profile), []).append(name)
    done = 0

    def build(key: str) -> tuple[kernel_cache.BuiltKernel, Recorded]:
        nonlocal done
        recorded = Recorded(c.records, cpu_key(c.profile))
        built = kernel_cache.build(c.plan.kernels[names[key][0]], key, c.profile, recorded, c.store)
        done += 1
        c.progress("build kernels", done, len(names))
        return built, recorded

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(build, names))
    for same, (built, recorded) in zip(names.values(), results, strict=True):
        if c.profile.gpu is None:
            path = folder / f"{built.symbol}.o"
            path.write_bytes(built.content)
            c.objects.append(path)
        else:
            c.device_kernels.update(dict.fromkeys(same, DeviceKernel.unpacked(built.content)))
        c.symbols.update(dict.fromkeys(same, built.symbol))
        if recorded.record is not None:
            c.tuned += same
        if recorded.note:
            c.notes.append(recorded.note)
    if c.store is not None and c.store.has_grown:
        c.store.trim()


def build_fallback(c: Compilation) -> None:
    """A GPU model -> its kernels for the CPU as well, where that was asked for."""
    from edgec.targets.tuning import find_records

    if not c.has_fallback:
        return
    profile = c.profile.cpu
    records = find_records(profile, None)
    c.fallback = Compilation(
        c.source,
        c.inputs,
        c.name,
        profile,
        c.folder,
        Dump(None),
        c.progress,
        records,
        c.store,
        samples=c.samples,
        precision=c.precision,
    )
    c.fallback.imported = c.imported
    titles = [title for title, _ in PHASES]
    first, last = titles.index("integer form"), titles.index("build kernels")
    for _, phase in PHASES[first : last + 1]:
        phase(c.fallback)


def link(c: Compilation) -> None:
    """Objects + generated driver + runtime -> libraries and runner."""
    from edgec.targets import driver
    from edgec.targets import link as linker

    folder = c.subfolder("lib")
    if c.profile.gpu is not None:
        _link_for_gpu(c, folder)
        return
    c.driver = driver.driver_source(c.name, c.plan, c.profile.required_features, c.symbols)
    linker.link(linker.Program(c.name, c.driver, c.objects, c.plan.params), c.profile, folder)
    _keep(c, c.plan.params)


def _link_for_gpu(c: Compilation, folder: Path) -> None:
    from edgec.targets import driver
    from edgec.targets import link as linker
    from edgec.targets.cuda.device_code import prelude
    from edgec.targets.cuda.program import Fallback, device_program

    fallback, source, params, objects = None, None, c.plan.params, c.objects
    if (on_cpu := c.fallback) is not None:
        fallback = Fallback.of(c.name, on_cpu.plan, c.plan)
        source = driver.driver_source(
            fallback.model, fallback.plan, on_cpu.profile.required_features, on_cpu.symbols, is_default=False
        )
        params, objects = fallback.plan.params, on_cpu.objects
    program = device_program(c.name, c.plan, c.device_kernels, c.profile.required_features, fallback)
    c.driver = program.source
    linker.link(linker.Program(c.name, c.driver, objects, params, program.images, source), c.profile, folder)
    kernels = {kernel.symbol: kernel.source for kernel in c.device_kernels.values()}
    (folder / "kernels.cu").write_text("\n".join([prelude(), *kernels.values()]))
    _keep(c, params)


def _keep(c: Compilation, params: bytes) -> None:
    c.dump.text("driver", "c", lambda: c.driver)
    (c.subfolder("lib") / "model.c").write_text(c.driver)
    (c.subfolder("params") / "params.bin").write_bytes(params)


def run_reference(c: Compilation) -> None:
    """Golden inputs and what the engine computes for them; the graph itself."""
    ir.save(c.imported, c.subfolder("graph") / "model.onnx")
    inputs, outputs = golden_samples(
        reference_model(c.imported),
        tensor_infos(graph_inputs(c.imported)),
        tensor_infos(c.imported.graph.outputs),
        c.progress,
        given=c.samples,
    )
    golden = c.subfolder("golden")
    save_arrays(golden / "inputs.npz", inputs)
    save_arrays(golden / "outputs.npz", outputs)


Phase = Callable[[Compilation], None]

PHASES: tuple[tuple[str, Phase], ...] = (
    ("read model", read),
    ("quantize", quantize),
    ("integer form", integerize),
    ("simplify", simplify),
    ("convert precision", convert_precision),
    ("lower", lower),
    ("fuse", fuse),
    ("plan memory", plan),
    ("build kernels", build_kernels),
    ("cpu fallback", build_fallback),
    ("link", link),
    ("run reference", run_reference),
)


def compile(
    model: ModelSource,
    *,
    target: str = "native",
    inputs: InputSpec | None = None,
    name: str | None = None,
    dump_ir: str | os.PathLike[str] | None = None,
    records: str | os.PathLike[str] | None = None,
    cache: bool = True,
    quantize: Literal["int8", "auto"] | None = None,
    calibration: SampleSource | None = None,
    max_drop: float | None = None,
    metric: str | Metric | None = None,
    evaluation: SampleSource | None = None,
    device: str | None = None,
    precision: Literal["fp32", "tf32", "fp16", "int8"] | None = None,
    also_for: Sequence[str] = (),
    progress: Progress = silent,
) -> Bundle:
    """Compile a model for a target.

    Args:
        model: Path to an .onnx file, an ``onnx_ir.Model``, an ``onnx.ModelProto``, an ``edgec.engine`` module, or
            ``"package.module:callable"`` that gives one of these.
        target: Name of a target; ``edgec targets`` lists them.
        inputs: Shapes by input name, for symbolic dimensions and for engine modules (example arrays work too).
        name: Name of the artifact; by default that of the file or module.
        dump_ir: Folder to write the model to after every phase.
        records: File of tuning records that win over the user's own and the package's; see :func:`edgec.tune`.
        cache: Whether kernels that were compiled before are taken from ``EDGEC_CACHE_DIR``, by default
            ``~/.cache/edgec``, and new ones kept there.
        quantize: ``"int8"`` to quantize the model as :func:`edgec.quantize` does by default; ``"auto"`` to quantize
            what costs no accuracy and gets faster, as measured, and nothing if the whole does not.
        calibration: Samples to quantize it by; see there. With float16, samples to see by what has to stay in float32;
            the first of them become the bundle's golden inputs.
        max_drop: With ``"auto"``: how far the score may fall below that of the float model, in points of percent; 0.5
            if None.
        metric: With ``"auto"``: the score, a function of outputs and inputs by name, stacked over the samples, that
            returns percents, more for better, or its ``"package.module:callable"``. None for agreement with the float
            model.
        evaluation: With ``"auto"``: samples to judge by; None for the calibration data.
        device: With ``"auto"``: where times are measured, ``local`` or ``ssh://[user@]host``; by default this machine
            where the target's CPU is of its kind.
        precision: ``"fp16"`` to store weights and to compute in float16 what does not suffer from it, ``"fp32"`` to
            compute all floats in float32, ``"tf32"`` the same, but with products on tensor cores, which see eleven
            bits of each factor. By default as the model has it, where the target computes in float16. ``"int8"`` says
            the same as ``quantize="int8"``.
        also_for: For a GPU target: newer architectures to have machine code for in the same bundle, as ``sm_90``,
            ``ptx`` for those to come, and ``cpu`` for machines without a GPU.
        progress: Called as the work goes on.

    Returns:
        The bundle; :meth:`~edgec.bundle.Bundle.save` writes it to a file.

    Raises:
        UnsupportedError: The target, operators of the model, or float16 on this target are not supported.
        UsageError: The options contradict each other.
        EdgecError: The model cannot be read or compiled; the message says why.

    Example:
        >>> import edgec
        >>> bundle = edgec.compile("resnet8.onnx", target="rk3588")  # doctest: +SKIP
        >>> bundle.save("resnet8.edgec")  # doctest: +SKIP
    """
    start = time.perf_counter()
    require_toolchain()
    from edgec.auto_report import aim_of

    if precision == "int8":
        if quantize == "auto":
            raise UsageError("quantize='auto' decides where int8 is used; precision='int8' wants it everywhere")
        quantize, precision = "int8", None
    samples = None if precision == "fp16" and quantize is None else calibration
    aim = aim_of(quantize, samples, max_drop=max_drop, metric=metric, evaluation=evaluation, device=device)
    from edgec.targets.object_store import open_store
    from edgec.targets.profile import load_profile, on_more_gpus
    from edgec.targets.tuning import find_records

    profile = on_more_gpus(load_profile(target), also_for)
    require_device_compiler(profile)
    profile = in_precision(precision, profile)
    found = find_records(profile, Path(records) if records is not None else None)
    with folder_unless_failed() as folder:
        c = Compilation(
            source=model,
            inputs=inputs,
            name=artifact_name(model, name),
            profile=profile,
            folder=folder,
            dump=Dump(Path(dump_ir) if dump_ir is not None else None),
            progress=progress,
            records=found,
            store=open_store() if cache else None,
            quantize=quantize,
            calibration=calibration,
            aim=aim,
            precision=precision,
            has_fallback="cpu" in also_for,
            notes=list(found.notes),
        )
        c.seconds["load compiler"] = time.perf_counter() - start
        _run(c, PHASES)
        start = time.perf_counter()
        bundle = seal_bundle(c)
    bundle.phases_s["seal bundle"] = round(time.perf_counter() - start, 3)
    return bundle


def _run(c: Compilation, phases: Sequence[tuple[str, Phase]]) -> None:
    """Go through phases in order, and note how long each takes."""
    for index, (title, phase) in enumerate(phases):
        c.progress(title, 0, 0)
        start = time.perf_counter()
        phase(c)
        c.seconds[title] = time.perf_counter() - start
        c.progress("compile", index + 1, len(phases))


def plan_model(
    model: ModelSource,
    target: str,
    inputs: InputSpec | None,
    name: str,
    progress: Progress = silent,
    precision: Literal["fp32", "tf32", "fp16"] | None = None,
) -> tuple[Plan, Profile]:
    """The plan that compiling would make kernels for, and the target's profile."""
    require_toolchain()
    from edgec.targets.profile import load_profile
    from edgec.targets.tuning import Records

    folder = temporary_folder()
    profile = in_precision(precision, load_profile(target))
    with folder:
        c = Compilation(model, inputs, name, profile, folder, Dump(None), progress, Records(), precision=precision)
        _run(c, list(takewhile(lambda row: row[1] is not build_kernels, PHASES)))
    return c.plan, c.profile


def artifact_name(model: ModelSource, name: str | None = None) -> str:
    """The artifact's name: the given one or that of the model, as a C identifier."""
    require_toolchain()
    from edgec.targets.driver import c_identifier

    identifier = c_identifier(name or model_name(model))
    # Of a model called X the C code has edgec_model_X and X.h, and the runtime has edgec_model_default() and edgec.h.
    return f"m_{identifier}" if identifier in ("default", "edgec") else identifier
