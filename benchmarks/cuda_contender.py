"""One contender of `cuda.py`, in a process of its own; it speaks like `x86_contender.py`.

    python benchmarks/cuda_contender.py PEER FOLDER THREADS

FOLDER holds ``model.onnx``, ``inputs.npz`` and ``precision``; for edgec it is an unpacked bundle. An inference is what
an application sees: inputs in host memory, outputs in host memory, nothing pending on the GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from x86_contender import Arrays, Loader, Session, edgec_loader, serve

__all__ = ["LOADERS", "torch_loader"]

_OPSET = 17


def torch_loader(
    folder: Path, inputs: Arrays, threads: int, *, is_compiled: bool = False, device: str = "cuda"
) -> Loader:
    """PyTorch, the model converted by onnx2torch; ``is_compiled``: max-autotune, which replays CUDA graphs."""
    import onnx2torch
    import torch
    from onnx2torch.node_converters.registry import add_converter
    from onnx2torch.utils.common import OperationConverterResult, onnx_mapping_from_node

    # onnx2torch knows operators as of opset 17: those used here have only got more types since, but for Gelu, which is
    # new, and reductions. What is computed is compared with the engine before it is timed.
    @add_converter("Gelu", _OPSET)  # type: ignore[untyped-decorator]
    def _gelu(node: Any, _graph: object) -> object:
        module = torch.nn.GELU(node.attributes.get("approximate", "none"))
        return OperationConverterResult(torch_module=module, onnx_mapping=onnx_mapping_from_node(node))

    proto = onnx.load_model(folder / "model.onnx")
    proto.opset_import[0].version = _OPSET
    _give_axes_as_attributes(proto)

    def load() -> Session:
        torch.set_num_threads(threads)
        # What fp32 means to edgec; tf32 is another precision.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        is_half = (folder / "precision").read_text() == "fp16"
        module = onnx2torch.convert(proto).eval().to(device)
        module = module.half() if is_half else module
        function = torch.compile(module, mode="max-autotune") if is_compiled else module
        is_pinned = device == "cuda"
        hosts = [torch.from_numpy(array) for array in inputs.values()]
        hosts = [tensor.pin_memory() for tensor in hosts] if is_pinned else hosts
        results: list[torch.Tensor] = []

        def infer() -> None:
            with torch.inference_mode():
                given = [tensor.to(device, non_blocking=True) for tensor in hosts]
                given = [tensor.half() if is_half and tensor.dtype == torch.float32 else tensor for tensor in given]
                out = function(*given)
                outputs = out if isinstance(out, tuple | list) else [out]
                if not results:
                    results.extend(torch.empty(o.shape, dtype=o.dtype, pin_memory=is_pinned) for o in outputs)
                for target, source in zip(results, outputs, strict=True):
                    target.copy_(source, non_blocking=True)
                if is_pinned:
                    torch.cuda.synchronize()

        return infer, lambda: [np.asarray(tensor.float()) for tensor in results]

    return load


def _give_axes_as_attributes(model: onnx.ModelProto) -> None:
    """To reductions, as up to opset 17."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type.startswith("Reduce") and len(node.input) == 2 and node.input[1] in constants:
            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
            node.attribute.append(helper.make_attribute("axes", axes))
            del node.input[1]


def compiled_loader(folder: Path, inputs: Arrays, threads: int) -> Loader:
    return torch_loader(folder, inputs, threads, is_compiled=True)


def onnxruntime_loader(provider: str) -> Callable[[Path, Arrays, int], Loader]:
    """ONNX Runtime on the GPU: its own kernels, or TensorRT's."""

    def loader(folder: Path, inputs: Arrays, _threads: int) -> Loader:
        import onnxruntime

        if provider not in onnxruntime.get_available_providers():
            raise RuntimeError(f"this ONNX Runtime has no {provider}")

        def load() -> Session:
            precision = (folder / "precision").read_text()
            settings = {"trt_fp16_enable": precision == "fp16", "trt_int8_enable": precision == "int8"}
            chosen = (provider, settings if provider.startswith("Tensorrt") else {})
            session = onnxruntime.InferenceSession(folder / "model.onnx", providers=[chosen])
            outputs: list[np.ndarray] = []

            def infer() -> None:
                outputs[:] = session.run(None, inputs)

            return infer, lambda: outputs

        return load

    return loader


LOADERS: Mapping[str, Callable[[Path, Arrays, int], Loader]] = {
    "edgec": edgec_loader,
    "torch": torch_loader,
    "torch.compile": compiled_loader,
    "onnxruntime": onnxruntime_loader("CUDAExecutionProvider"),
    "tensorrt": onnxruntime_loader("TensorrtExecutionProvider"),
}


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), LOADERS, is_pinned_later=True)
