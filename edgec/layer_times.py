"""How long artifacts and their layers take on the target."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgec.bundle import Bundle
from edgec.devices import open_process

__all__ = ["TargetTimer", "Timer"]

_ROUNDS = 7
_ROUND_MS = 100
_PROFILE_MS = 500.0


class Timer(Protocol):
    """Measures on one device."""

    description: str

    def latencies_ms(self, bundles: Sequence[Bundle]) -> list[float]:
        """Medians of whole inferences, of artifacts that take turns."""

    def layers_ms(self, bundle: Bundle) -> dict[str, float]:
        """The time of each layer, by the name of the value that its convolution or product makes."""


@dataclass
class TargetTimer:
    """A timer on a device.

    Attributes:
        device: ``local`` or ``ssh://[user@]host``; None for this machine.
        description: The device in words, once it was used.
    """

    device: str | None = None
    description: str = "this machine"

    def latencies_ms(self, bundles: Sequence[Bundle]) -> list[float]:
        medians: list[list[float]] = [[] for _ in bundles]
        with ExitStack() as stack:
            runners = [stack.enter_context(open_process(bundle, self.device)) for bundle in bundles]
            self.description = runners[0].description
            for _ in range(_ROUNDS):
                for runner, found in zip(runners, medians, strict=True):
                    timing = runner.bench(warmup_ms=_ROUND_MS // 4, min_time_ms=_ROUND_MS, max_runs=100_000)
                    found.append(float(np.median(timing.latencies_ms)))
        return [float(np.median(found)) for found in medians]

    def layers_ms(self, bundle: Bundle) -> dict[str, float]:
        layers = json.loads((bundle.folder / "reports" / "compile.json").read_text())["layers"]
        with open_process(bundle, self.device) as runner:
            once = runner.bench(warmup_ms=0, min_time_ms=0, max_runs=3).latencies_ms[-1]
            times = runner.profile(int(min(max(_PROFILE_MS / max(once, 1e-3), 5), 500)))
        found: dict[str, float] = {}
        for time in times:
            layer = layers[time.index]
            if layer is not None:
                found[layer] = found.get(layer, 0.0) + time.median_us / 1e3
        return found
