"""Time and memory of one training step of edgec's engine, PyTorch and Paddle (eager): interleaved, one thread.

    python benchmarks/train.py [--models mlp,lenet,resnet8] [--peers edgec,torch,paddle] [--seconds 4] [--json out.json]

A step is forward, cross entropy, backward and an SGD update with momentum 0.9, in float32 on a fixed random batch.
Each contender has a process of its own, and they take turns of a fifth of a second, so that a change of the machine's
speed meets all of them and no library's thread pool or allocator meets another's. A peer that is not installed is
left out. The lines are wall-clock medians; the CPU time of a step is beside them, because on a machine with other
work it is the steadier of the two. Memory is by how much the process's resident peak rose over its size before the
first step, with the model and the data already there: activations, gradients, velocities and the library's buffers.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path
from typing import Any

from turns import Contender, answer, resident_mib

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
ROUND_SECONDS = 0.2
MEMORY_STEPS = 5
PACKAGES = {"edgec": "numpy", "torch": "torch", "paddle": "paddlepaddle"}
# Input shape (with the batch) of each model; all have ten classes.
MODELS = {"mlp": (64, 784), "lenet": (64, 1, 28, 28), "resnet8": (32, 3, 32, 32)}

Step = Callable[[], float]


def edgec_step(model: str, x: Any, labels: Any) -> Step:
    """A step that returns the loss."""
    from edgec import engine
    from edgec.engine import nn, optim

    engine.seed(0)
    network = build(nn, model)
    network.train()
    optimizer = optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    inputs, targets, loss_of = engine.tensor(x), engine.tensor(labels), nn.CrossEntropyLoss()

    def step() -> float:
        loss = loss_of(network(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def torch_step(model: str, x: Any, labels: Any) -> Step:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build(torch.nn, model)
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    inputs, targets, loss_of = torch.from_numpy(x), torch.from_numpy(labels), torch.nn.CrossEntropyLoss()

    def step() -> float:
        loss = loss_of(network(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def paddle_step(model: str, x: Any, labels: Any) -> Step:
    import paddle

    paddle.set_device("cpu")
    paddle.seed(0)
    network = build(PaddleNames(paddle), model)
    network.train()
    optimizer = paddle.optimizer.Momentum(0.01, momentum=0.9, parameters=network.parameters())
    inputs, targets, loss_of = paddle.to_tensor(x), paddle.to_tensor(labels), paddle.nn.CrossEntropyLoss()

    def step() -> float:
        loss = loss_of(network(inputs), targets)
        optimizer.clear_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


class PaddleNames:
    """Paddle's layers under the names and arguments of PyTorch."""

    def __init__(self, paddle: Any) -> None:
        self._nn, self.Module = paddle.nn, paddle.nn.Layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._nn, name.replace("BatchNorm2d", "BatchNorm2D").replace("Pool2d", "Pool2D"))

    def Conv2d(self, *arguments: Any, bias: bool = True, **options: Any) -> Any:  # noqa: N802 - a layer's name
        return self._nn.Conv2D(*arguments, bias_attr=None if bias else False, **options)


CONTENDERS: dict[str, Callable[[str, Any, Any], Step]] = {
    "edgec": edgec_step,
    "torch": torch_step,
    "paddle": paddle_step,
}


def build(nn: Any, model: str) -> Any:
    """The network out of a library's layers."""
    return {"mlp": _mlp, "lenet": _lenet, "resnet8": _resnet8}[model](nn)


def _mlp(nn: Any) -> Any:
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))


def _lenet(nn: Any) -> Any:
    """Padded, so that the pools leave 14 and 7 pixels."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 120), nn.ReLU(), nn.Linear(120, 10)),
    )


def _resnet8(nn: Any) -> Any:
    """MLPerf Tiny's: a stem and three stages of one block each."""

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
            self.norm2 = nn.BatchNorm2d(outputs)
            self.relu = nn.ReLU()
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride) if stride > 1 else nn.Sequential()

        def forward(self, x: Any) -> Any:
            y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
            return self.relu(y + self.shortcut(x))

    stem = (nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    blocks = (Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


# --- one contender's process ---


def serve(peer: str, model: str) -> None:
    """Answer each line, a number of seconds, with the steps made in it: wall and CPU milliseconds, and the loss."""
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.standard_normal(MODELS[model], dtype=np.float32)
    labels = rng.integers(0, 10, len(x))
    step = CONTENDERS[peer](model, x, labels)
    gc.collect()
    reset_peak_memory()
    before_mib = resident_mib("VmRSS")
    first_loss = step()
    for _ in range(MEMORY_STEPS - 1):
        step()
    answer({"memory_mib": resident_mib("VmHWM") - before_mib, "first_loss": first_loss})
    for line in sys.stdin:
        wall, cpu, loss = [], [], 0.0
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        end = time.perf_counter() + float(line)
        while (start := time.perf_counter()) < end:
            cpu_start = time.process_time()
            loss = step()
            cpu.append((time.process_time() - cpu_start) * 1e3)
            wall.append((time.perf_counter() - start) * 1e3)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        answer({"wall_ms": wall, "cpu_ms": cpu, "loss": loss, "page_faults": faults})


def reset_peak_memory() -> None:
    Path("/proc/self/clear_refs").write_text("5")


# --- the conductor ---


class PeerProcess(Contender):
    """A process that makes steps when told to, and what it measured."""

    def __init__(self, peer: str, model: str) -> None:
        super().__init__([sys.executable, __file__, "--serve", peer, model], {**os.environ, **ONE_THREAD})
        self.peer = peer
        self.wall_ms: list[float] = []
        self.cpu_ms: list[float] = []
        self.page_faults = 0

    def run(self, seconds: float, count: bool = True) -> None:
        message = self.work(seconds)
        if count:
            self.wall_ms += message["wall_ms"]
            self.cpu_ms += message["cpu_ms"]
            self.page_faults += message["page_faults"]


def measure(model: str, peers: list[str], seconds: float) -> dict[str, dict[str, object]]:
    """Figures by contender: percentiles of the wall and CPU time of a step in ms, and memory."""
    contenders = [PeerProcess(peer, model) for peer in peers]
    for contender in contenders:
        contender.run(ROUND_SECONDS, count=False)
    end = time.perf_counter() + seconds * len(contenders)
    while time.perf_counter() < end:
        for contender in contenders:
            contender.run(ROUND_SECONDS)
    for contender in contenders:
        contender.close()
    return {
        contender.peer: {
            "steps": len(contender.wall_ms),
            "wall_ms": percentiles(contender.wall_ms),
            "cpu_ms": percentiles(contender.cpu_ms),
            "page_faults_per_step": contender.page_faults / max(len(contender.wall_ms), 1),
            **contender.start,
        }
        for contender in contenders
    }


def percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {f"p{share}": ordered[min(share * len(ordered) // 100, len(ordered) - 1)] for share in (10, 50, 90)}


def report(rows: dict[str, dict[str, dict[str, Any]]], peers: list[str]) -> None:
    print(", ".join(f"{peer} {version(peer)}" for peer in peers))
    print(f"{platform.processor() or platform.machine()}, one thread, float32; ms: median (10 % to 90 %)")
    print(f"{'model':9}{'':8}{'wall ms':>24}{'CPU ms':>10}{'memory MiB':>12}{'of torch':>10}")
    for model, row in rows.items():
        for peer in peers:
            wall, figures = row[peer]["wall_ms"], row[peer]
            spread = f"{wall['p50']:.3f} ({wall['p10']:.3f} to {wall['p90']:.3f})"
            share = f"{figures['cpu_ms']['p50'] / row['torch']['cpu_ms']['p50']:.2f}" if "torch" in row else ""
            print(
                f"{model:9}{peer:8}{spread:>24}{figures['cpu_ms']['p50']:>10.3f}{figures['memory_mib']:>12.1f}{share:>10}"
            )
    for peer in peers:
        if peer != "edgec" and "edgec" in peers:
            for kind in ("wall_ms", "cpu_ms"):
                print(f"geometric mean of edgec / {peer}, {kind[:-3]} time: {mean_ratio(rows, peer, kind):.2f}")


def mean_ratio(rows: dict[str, dict[str, dict[str, Any]]], peer: str, kind: str) -> float:
    product = 1.0
    for row in rows.values():
        product *= row["edgec"][kind]["p50"] / row[peer][kind]["p50"]
    return float(product ** (1.0 / len(rows)))


def version(peer: str) -> str:
    package = PACKAGES[peer]
    return f"(NumPy {metadata.version(package)})" if peer == "edgec" else metadata.version(package)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated; default: all")
    parser.add_argument("--peers", default=",".join(CONTENDERS), help="comma-separated; default: the installed")
    parser.add_argument("--seconds", type=float, default=4.0, help="time per contender and model")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--serve", nargs=2, metavar=("PEER", "MODEL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve)
        return
    peers = [peer for peer in arguments.peers.split(",") if util.find_spec(peer) is not None]
    rows = {model: measure(model, peers, arguments.seconds) for model in arguments.models.split(",")}
    report(rows, peers)
    if arguments.json:
        machine = {"machine": platform.machine(), "system": platform.platform(), "python": platform.python_version()}
        versions = {peer: version(peer) for peer in peers}
        figures = {**machine, "threads": 1, "versions": versions, "models": rows}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
