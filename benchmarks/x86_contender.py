"""One contender of `x86.py`, in a process of its own: loads a model, runs it once, and then times it when told to.

    python benchmarks/x86_contender.py PEER FOLDER THREADS

FOLDER holds ``model.onnx`` and ``inputs.npz``; for edgec it is an unpacked bundle, as it lies on a device, with
``inputs.npz`` beside. The first answer tells what loading took, the first inference, and memory; the outputs lie in
``PEER.npz`` then. Each further line on stdin is a number of seconds, answered with the latencies of the inferences
made in it.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from turns import answer, resident_mib

Arrays = dict[str, np.ndarray]
Session = tuple[Callable[[], object], Callable[[], list[np.ndarray]]]
"""An inference on inputs that are bound to it once, and what gives the outputs of the last one."""
Loader = Callable[[], Session]
"""Loads the model. The library is imported before."""


def edgec_loader(folder: Path, inputs: Arrays, threads: int) -> Loader:
    from edgec.bundle import TensorInfo
    from edgec.devices.inprocess import InProcessRunner

    manifest = json.loads((folder / "manifest.json").read_text())
    infos = {
        kind: [TensorInfo(row["name"], tuple(row["shape"]), row["dtype"]) for row in manifest[kind]]
        for kind in ("inputs", "outputs")
    }
    bundle = SimpleNamespace(
        name=manifest["name"],
        target=manifest["target"]["name"],
        library=folder / "lib" / f"lib{manifest['name']}.so",
        params=folder / "params" / "params.bin",
        outputs=infos["outputs"],
    )
    sample = [inputs[info.name] for info in infos["inputs"]]

    def load() -> Session:
        runner = InProcessRunner(bundle, threads)  # type: ignore[arg-type]  # what it reads of a bundle is there
        infer, outputs = runner.bind(sample)
        return infer, lambda: outputs

    return load


def onnxruntime_loader(folder: Path, inputs: Arrays, threads: int) -> Loader:
    import onnxruntime

    def load() -> Session:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for value in session.get_outputs():
            binding.bind_output(value.name)
        return functools.partial(session.run_with_iobinding, binding), binding.copy_outputs_to_cpu

    return load


def openvino_loader(folder: Path, inputs: Arrays, threads: int) -> Loader:
    import openvino

    def load() -> Session:
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        settings["PERFORMANCE_HINT"] = "LATENCY"
        compiled = openvino.Core().compile_model(folder / "model.onnx", "CPU", settings)
        request = compiled.create_infer_request()
        for name, array in inputs.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        infer = functools.partial(request.infer, share_outputs=True)
        return infer, lambda: [request.get_output_tensor(i).data for i in range(len(compiled.outputs))]

    return load


LOADERS: Mapping[str, Callable[[Path, Arrays, int], Loader]] = {
    "edgec": edgec_loader,
    "onnxruntime": onnxruntime_loader,
    "openvino": openvino_loader,
}


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins at a multiple of 64 bytes: a vector or a cache line, which no contender has to move."""
    room = np.empty(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def serve(
    peer: str,
    folder: Path,
    threads: int,
    loaders: Mapping[str, Callable[[Path, Arrays, int], Loader]] = LOADERS,
    is_pinned_later: bool = False,
) -> None:
    """Be a contender until stdin ends.

    With ``is_pinned_later`` loading and the first inference, in which a peer may compile, have all CPUs.
    """
    # The same CPUs for everybody, as many as threads: before the library starts any.
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    if not is_pinned_later:
        os.sched_setaffinity(0, cpus)
    with np.load(folder / "inputs.npz") as file:
        inputs = {name: aligned(file[name]) for name in file.files}
    load = loaders[peer](folder, inputs, threads)
    start = time.perf_counter()
    infer, fetch = load()
    loaded = time.perf_counter()
    infer()
    first = time.perf_counter()
    peak_mib = resident_mib("VmHWM")
    np.savez(folder / f"{peer}.npz", *fetch())
    os.sched_setaffinity(0, cpus)
    answer({
        "load_ms": (loaded - start) * 1e3,
        "first_ms": (first - loaded) * 1e3,
        "peak_mib": peak_mib,
        "cpus": sorted(os.sched_getaffinity(0)),
    })  # fmt: skip
    for line in sys.stdin:
        latencies = []
        end = time.perf_counter() + float(line)
        while (start := time.perf_counter()) < end:
            infer()
            latencies.append((time.perf_counter() - start) * 1e3)
        answer({"latencies_ms": latencies, "peak_mib": resident_mib("VmHWM")})


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
