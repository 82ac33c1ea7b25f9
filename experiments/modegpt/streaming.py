"""From a checkpoint to a smaller one, a layer at a time; a run that was broken off goes on at its layer.

Two walks through the model as it is: the first measures each layer's influence (only where shares follow it),
the second each layer's moments, from which the layer is made anew and written. A hidden folder beside the
output keeps what is done, and becomes the output when all is.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffax.checks import require
from diffax.io import write_json
from diffax.io.decoder_files import DecoderFiles
from diffax.io.decoder_writer import end_tensors, layer_tensors, write_about
from diffax.io.weights import write_tensors
from diffax.linalg import Moments
from diffax.models.decoder_lm import DecoderConfig, Layer
from diffax.types import Params
from experiments.modegpt import baselines
from experiments.modegpt.compression import Settings, Visit, finished, shares
from experiments.modegpt.method import Job
from experiments.modegpt.methods import METHODS
from experiments.modegpt.runner import Runner, Streams, make_moments
from experiments.modegpt.sensitivity import STEPS, Trials, allocate
from experiments.progress import Counted


class Work:
    """A folder with what is done: facts, the streams before the next layer, tensors of finished layers.

    ``mark`` says of what run; what another run left is removed.
    """

    def __init__(self, folder: Path, mark: str) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = self._read()
        if self.facts.get("mark") != mark:
            shutil.rmtree(folder, ignore_errors=True)
            self.facts = {"mark": mark}
        folder.mkdir(parents=True, exist_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / "work.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def keep(self, **facts: Any) -> None:
        """More facts, on disk when this returns."""
        self.facts |= facts
        write_json(self.folder / "work.json", self.facts)

    def open_streams(self, name: str, runner: Runner, tokens: Int[np.ndarray, "n t"], mode: Any) -> Streams:
        """A file of residual streams as an array."""
        shape = (*tokens.shape, runner.config.ends[0])
        return np.memmap(self.folder / name, runner.dtype, mode, shape=shape)


def fingerprint(files: DecoderFiles, tokens: Int[np.ndarray, "n t"], *more: Any) -> str:
    """What a run is, so that another does not go on with its work."""
    about = sorted((one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in files.folder.iterdir())
    text = json.dumps([str(files.folder.resolve()), files.fields, about, *map(str, more)], sort_keys=True)
    return hashlib.sha256(text.encode() + np.ascontiguousarray(tokens, np.int32).tobytes()).hexdigest()


def compress_files(
    runner: Runner, tokens: Int[np.ndarray, "n t"], settings: Settings, work: Work, form: str
) -> Path:
    """A finished checkpoint in the work folder, whose path is returned; facts of the layers are in the work.

    Peak memory is that of one layer, its moments and a batch of streams.
    """
    config, method = runner.config, METHODS[settings.method]
    targets = method.targets(config, find_shares(runner, tokens, settings, work), settings.multiple)
    out = work.folder / "model"
    out.mkdir(exist_ok=True)

    def visit(number: int, params: Params, moments: Mapping[str, Moments]) -> None:
        layer, made = method.layer(Job(config, number, params, moments, targets[number], settings.options))
        changed = replace(config, layers=(*config.layers[:number], layer, *config.layers[number + 1 :]))
        write_tensors(shard(config, out, number), layer_tensors(changed, number, made, form, config))
        work.keep(layers={**work.facts.get("layers", {}), str(number): layer})
        for name in ("before", "after") if method.turns and number in (0, len(targets) - 1) else ():
            np.save(work.folder / f"{name}-{number}.npy", moments[name].second)

    walk(runner, tokens, work, "made", method.needs, visit)
    made = work.facts["layers"]
    layers = tuple(as_layer(made[str(number)]) for number in range(len(targets)))
    ends = runner.files.ends()
    if method.turns:
        first, last = (
            np.load(work.folder / f"{name}.npy") for name in ("before-0", f"after-{len(layers) - 1}")
        )
        ends = baselines.slice_ends(config, ends, first, last, targets[0])
    small = finished(config, layers)
    write_tensors(shard(config, out, len(layers)), end_tensors(small, ends))
    write_about(out, small, runner.files.fields, form, runner.files.folder)
    return out


def find_shares(
    runner: Runner, tokens: Int[np.ndarray, "n t"], settings: Settings, work: Work
) -> Float[np.ndarray, "l 3"]:
    """What each part of each layer gives up, by a walk of its own where that is to be measured."""
    numbers = [str(number) for number in range(len(runner.config.layers))]
    if settings.allocation == "influence":
        walk(runner, tokens, work, "measured", (), lambda *_: None)
        return shares(runner.config, [work.facts["influence"][number] for number in numbers], settings)
    if settings.allocation == "uniform" or not METHODS[settings.method].parts or not settings.ratio:
        return shares(runner.config, [0.0] * len(numbers), settings._replace(allocation="uniform"))

    def visit(number: int, params: Params, moments: Mapping[str, Moments]) -> None:
        costs = trials.measure(number, params, moments, settings).tolist()
        work.keep(costs={**work.facts.get("costs", {}), str(number): costs})

    require(settings.ratio <= STEPS[-1], "ratio", settings.ratio, f"at most {STEPS[-1]}")  # before hours
    done = work.facts.get("measured", 0)
    if done < len(numbers):
        trials = Trials(runner, tokens, done)
        walk(runner, tokens, work, "measured", METHODS[settings.method].needs, visit)
    costs = np.asarray([work.facts["costs"][number] for number in numbers])
    return allocate(runner.config, costs, settings.ratio)


def walk(
    runner: Runner,
    tokens: Int[np.ndarray, "n t"],
    work: Work,
    name: str,
    needs: tuple[str, ...],
    visit: Visit,
) -> None:
    """All layers in order, from where the fact ``name`` says; each is visited once its moments are there."""
    show, config = Counted(f"layers {name}"), runner.config
    done = work.facts.get(name, 0)
    if not done:
        runner.embed(runner.files.ends(), tokens, work.open_streams("streams-0", runner, tokens, "w+"))
    for number in range(done, len(config.layers)):
        params, moments = runner.files.layer(number), make_moments(config, config.layers[number], needs)
        before = work.open_streams(f"streams-{number}", runner, tokens, "r")
        after = work.open_streams(f"streams-{number + 1}", runner, tokens, "w+")
        influence = runner.layer(number, params, before, after, moments)
        after.flush()
        visit(number, params, moments)
        work.keep(influence={**work.facts.get("influence", {}), str(number): influence}, **{name: number + 1})
        (work.folder / f"streams-{number}").unlink()
        show(number + 1, len(config.layers))


def shard(config: DecoderConfig, out: Path, number: int) -> Path:
    """The file of a layer's tensors; the last is of all that is in no layer."""
    count = len(config.layers) + 1
    return out / f"model-{number + 1:05}-of-{count:05}.safetensors"


def as_layer(kept: Sequence[Any]) -> Layer:
    """A layer's widths from JSON."""
    hidden, keys, values, pairs, ranks, stream = kept
    found = tuple((str(name), int(rank)) for name, rank in ranks)
    return Layer(hidden, keys, values, tuple(map(tuple, pairs)), found, tuple(stream))
