"""Run a recipe of `edgec.models`: train a network on real data and write what it learnt."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec import engine
from edgec.engine.data import DataLoader
from edgec.engine.files import read_safetensors, write_safetensors
from edgec.errors import UsageError
from edgec.files import check_writable
from edgec.models import NETWORKS, RECIPES

if TYPE_CHECKING:
    from edgec.engine.progress import ProgressCallback
    from edgec.models import Network, Recipe

__all__ = ["TrainingReport", "find_network", "find_recipe", "load_checkpoint", "state_path", "train"]

_METADATA = "edgec.network"


@dataclass(frozen=True)
class TrainingReport:
    """What a training came to.

    Attributes:
        recipe: Its name.
        network: The class that was trained.
        source: The data, in a few words.
        seed: Where all random numbers come from.
        epochs: Passes over the data.
        is_quick: Whether it was a quick run, of which nothing is expected.
        metric: The name of the figure that counts.
        figure: That figure on samples that were not trained on.
        expected: What a whole run of the recipe reaches.
        is_reached: Whether this one did; None where other epochs or data than the recipe's were used.
        history: The figures of every epoch.
        seconds: Time of this run, without what was done before a resume.
        output: The checkpoint that was written.
    """

    recipe: str
    network: str
    source: str
    seed: int
    epochs: int
    is_quick: bool
    metric: str
    figure: float
    expected: float
    is_reached: bool | None
    history: list[dict[str, float]]
    seconds: float
    output: str

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


class _Settled(DataLoader):
    """A loader whose saved state also says what the training was started with."""

    settings: Mapping[str, object]

    @classmethod
    def of(cls, loader: DataLoader, settings: Mapping[str, object]) -> _Settled:
        made = cls.__new__(cls)
        made.__dict__.update(loader.__dict__)
        made.settings = settings
        return made

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "settings": dict(self.settings)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, now in self.settings.items():
            before = state["settings"].get(name)
            if before != now:
                raise UsageError(
                    f"the training was started with {name} {before}, not {now}",
                    fix=f"resume with {name} {before}, or start again without --resume",
                )
        super().load_state_dict(state)


def find_recipe(name: str) -> tuple[str, Recipe]:
    """A recipe by its name, whatever its case and hyphens.

    Raises:
        UsageError: There is none.
    """
    found = _closest(name, {key: key for key in RECIPES})
    if found is None:
        raise _unknown("recipe", name, list(RECIPES), "edgec train --list shows them")
    return found, RECIPES[found]


def find_network(name: str) -> type[Network]:
    """A network of `edgec.models` by its class or by its recipe, whatever its case and hyphens.

    Raises:
        UsageError: There is none.
    """
    by_name = {**{key: recipe.network for key, recipe in RECIPES.items()}, **NETWORKS}
    found = _closest(name, {key: key for key in by_name})
    if found is None:
        raise _unknown("network", name, list(by_name), f"there are {', '.join(NETWORKS)}")
    return by_name[found]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _closest(name: str, names: Mapping[str, str]) -> str | None:
    if name in names:  # the recipe mobilenet-v2 trains another network than MobileNetV2
        return name
    return next((key for key in names if _plain(key) == _plain(name)), None)


def _unknown(kind: str, name: str, names: list[str], otherwise: str) -> UsageError:
    near = get_close_matches(_plain(name), [_plain(key) for key in names], n=3, cutoff=0.5)
    meant = list(dict.fromkeys(key for plain in near for key in names if _plain(key) == plain))
    fix = f"did you mean {' or '.join(meant)}?" if meant else otherwise
    return UsageError(f"there is no {kind} '{name}'", fix=fix)


def load_checkpoint(path: Path) -> Network:
    """The network that `train` wrote, with what it learnt.

    Raises:
        UsageError: The file does not say which network it is of.
        StateDictError: It is no safetensors file, or does not fit the network.
    """
    _, metadata = read_safetensors(path)
    if _METADATA not in metadata:
        raise UsageError(
            f"{path} does not say which network it is of",
            fix=f"name it: edgec compile models.NAME --checkpoint {path}",
        )
    network = find_network(metadata[_METADATA])()
    network.load(path)
    return network


def state_path(output: Path) -> Path:
    """Where an unfinished training keeps everything it needs to go on."""
    return output.with_name(f"{output.stem}.unfinished")


def train(
    name: str,
    *,
    data: Path | None = None,
    epochs: int | None = None,
    output: Path | None = None,
    resume: bool = False,
    seed: int = 0,
    quick: bool = False,
    progress: ProgressCallback | None = None,
) -> TrainingReport:
    """Train a network by its recipe and write its parameters.

    After every epoch the state is written beside the output; an interrupted training goes on from there with `resume`
    and ends with the very parameters that it would have had. The state is removed when the output is written.

    Args:
        name: Of the recipe.
        data: The folder of data sets; EDGEC_DATA or ../shared/data by default.
        epochs: Passes over the data; the recipe's own by default.
        output: The safetensors file to write; NAME.safetensors by default.
        resume: Go on where an interrupted training stopped, if one was.
        seed: Where all random numbers come from.
        quick: A short run on little data.
        progress: Called after every batch and epoch.

    Raises:
        UsageError: There is no such recipe, an unfinished training is in the way, or was started otherwise.
        EdgecError: Data are missing or damaged, or the output cannot be written.
    """
    name, recipe = find_recipe(name)
    if epochs is not None and epochs < 1:
        raise UsageError(f"cannot train for {epochs} epochs", fix="give a positive number")
    output = output or Path(f"{name}.safetensors")
    check_writable(output)
    state = state_path(output)
    if state.exists() and not resume:
        raise UsageError(
            f"there is an unfinished training of {name}", where=str(state), fix="pass --resume, or remove the file"
        )
    start = time.perf_counter()
    task = recipe.load(data, quick)
    count = epochs or (recipe.quick_epochs if quick else recipe.epochs)
    engine.seed(seed)
    network = recipe.network()
    training, test = task.loaders(recipe.batch_size, seed)
    settled = _Settled.of(training, {"recipe": name, "seed": seed, "epochs": count, "quick": quick})
    # The last network is kept, not the best: the choice would be made by the test data.
    trainer = recipe.trainer(network, count * len(training))
    history = trainer.fit(
        settled, test, count, monitor="loss", keep_best=False, checkpoint=state, resume=resume, progress=progress
    )
    figure = history[-1][f"valid_{recipe.metric}"]
    is_whole = not quick and count == recipe.epochs
    metadata = {_METADATA: type(network).__name__, "edgec.recipe": json.dumps(dict(settled.settings))}
    write_safetensors(output, {key: tensor.numpy() for key, tensor in network.state_dict().items()}, metadata)
    state.unlink(missing_ok=True)
    return TrainingReport(
        recipe=name, network=type(network).__name__, source=task.source, seed=seed, epochs=count, is_quick=quick,
        metric=recipe.metric, figure=figure, expected=recipe.expected,
        is_reached=recipe.is_reached(figure) if is_whole else None,
        history=history, seconds=time.perf_counter() - start, output=str(output),
    )  # fmt: skip
