"""Held-out patients at angles that are asked for: what the network shows beside what is there."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from diffax.data import Batch
from diffax.data.bodies import body_key, draw_body
from diffax.data.curves import to_unit
from diffax.evaluation import psnr, ssim
from diffax.evaluation.displacement import block_match
from diffax.io import save_png
from diffax.operators import Pose, c_arm
from diffax.training import TrainState, distributed
from experiments.figures import as_figures, as_rows, fastest
from experiments.progress import say
from experiments.radrotator import baselines, method, patients, pictures, views
from experiments.radrotator.beside import trained_beside
from experiments.radrotator.turning import Images, Turn, make_turn

STYLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gamma_0.5": lambda x: x**0.5,
    "gamma_2": lambda x: x**2,
    "sigmoid_8": lambda x: _unit(1 / (1 + np.exp(-8 * (x - 0.5)))),
    "equalised": lambda x: _unit(np.searchsorted(np.sort(x.ravel()), x, side="right") / x.size),
}


class HeldOut(NamedTuple):
    """Patients, the view that is given and the one asked for, both in [-1, 1]; ``vector`` in [-1, 1]."""

    rows: Batch
    turns: Float[np.ndarray, "n 3 3"]
    image: Images
    target: Images
    vector: Float[np.ndarray, "n 3"]


def evaluate(
    config: ConfigDict, state: TrainState, workdir: Path, others: ConfigDict | None = None
) -> Mapping[str, Any]:
    """The network, those that ``config.eval.beside`` names, and the baselines, on the same held-out views.

    ``others``: a configuration whose held-out patients are looked at, in place of one's own.
    """
    patients_of = others or config
    held = held_out_views(patients_of, config.eval.n)
    own = make_turn(config, method.parameters(config, state))
    shown = classical(config, held)
    found = {name: agreement(images, held.target) for name, images in shown.items()}
    for name, turn in ({"": own} | trained_beside(config, workdir, make_turn)).items():
        shown[name] = turn(held.image, held.vector, config.seed)
        found[name] = measure(patients_of, turn, held, shown[name])
    found[""] |= uncertainty(own, held, config.eval.seeds)
    for name, images in shown.items():
        found[name] |= landmark_errors(patients_of, held, images, exact=name == "copy")
    if distributed.is_main():
        pictures.patients(workdir / "views.png", held, shown)
        pictures.angles(workdir / "angles.png", *angle_grid(patients_of, own, held))
        for number, image in enumerate(held.image[:3]):
            save_png(workdir / f"radiograph-{number}.png", image)
    n = config.eval.n
    about = {"n_fake": n, "n_real": n, "split": split_of(config, others), "seed": config.seed}
    about["extractor"] = {"name": "images in [-1, 1], data range 2; SSIM mirrors the edges"}
    return {"figures": as_figures(found, **about), "rows": as_rows(found, config.objective)}


def measure(config: ConfigDict, turn: Turn, held: HeldOut, shown: Images) -> dict[str, float]:
    """A network's figures, those that need it to be asked again included."""
    found = agreement(shown, held.target) | {"better_than_copy": better(shown, held.image, held.target)}
    found |= under_styles(turn, held, found["psnr"], config.seed) | retrieval(config, turn, held)
    seconds = fastest(lambda: turn(held.image, held.vector, config.seed))
    return found | {"seconds_per_view": seconds / len(shown)}


def draw(config: ConfigDict, state: TrainState, workdir: Path) -> None:
    """A held-out patient from all around, beside the truth."""
    turn, held = make_turn(config, method.parameters(config, state)), held_out_views(config, 1)
    if distributed.is_main():
        pictures.angles(workdir / "samples-angles.png", *angle_grid(config, turn, held))


def held_out_views(config: ConfigDict, count: int) -> HeldOut:
    """Patients that no training saw, each with a view given and an angle asked for."""
    rows, limit = patients.held_out_rows(config, count), config.angles.limit
    start_key, ask_key = jax.random.split(jax.random.key(config.seed + 11))
    start = views.draw_angles(start_key, count, limit * (config.input_view == "random"))
    angles = views.draw_angles(ask_key, count, limit)
    first = views.rotations_of(start)
    turns = jnp.stack([first, first @ views.rotations_of(angles)], axis=1)
    pair = render_all(config, rows, turns)
    return HeldOut(rows, np.asarray(turns[:, 1]), pair[:, 0], pair[:, 1], np.asarray(angles / limit))


def render_all(
    config: ConfigDict, rows: Batch, turns: Float[Array | np.ndarray, "n v 3 3"]
) -> Float[np.ndarray, "n v h w 1"]:
    """True views of each patient, each in [-1, 1] by its own range."""
    render = jax.jit(views.make_render(config))

    def of(k: int) -> np.ndarray:
        lines = render({name: leaf[k] for name, leaf in rows.items()}, turns[k])
        return np.asarray(views.signed(to_unit(lines)))

    return np.stack([of(k) for k in range(len(turns))])


def classical(config: ConfigDict, held: HeldOut) -> dict[str, Images]:
    """The input as it is, the mean patient at each angle, and the input turned as a flat sheet."""
    rows = next(patients.make_data(config)(0, 1))
    pairs = jax.jit(views.make_draw(config, views.make_render(config)))(
        rows, jax.random.key(config.seed + 12)
    )
    depth = baselines.best_depth(config, pairs)
    say(f"baseline: a flat patient {depth:g} mm in front of the isocentre")
    relative = views.rotations_of(jnp.asarray(held.vector) * config.angles.limit)
    flat = baselines.flat_views(views.make_arm(config), jnp.asarray(held.image), relative, depth)
    mean = baselines.mean_views(views.make_render(config), rows, jnp.asarray(held.turns))
    return {"copy": held.image, "mean": np.asarray(mean), "flat": np.asarray(flat)}


def agreement(images: Images, target: Images) -> dict[str, float]:
    """Mean PSNR and SSIM, and how steep edges are: the mean size of differences over the truth's."""
    steep = [
        np.mean(np.abs(np.diff(x, axis=1))) + np.mean(np.abs(np.diff(x, axis=2))) for x in (images, target)
    ]
    return {
        "psnr": float(jnp.mean(psnr(images, target, data_range=2.0))),
        "ssim": float(jnp.mean(_ssim(images, target))),
        "sharpness": float(steep[0] / steep[1]),
    }


def better(images: Images, other: Images, target: Images) -> float:
    """The share of images that are nearer to the target than the others."""
    return float(np.mean(_mse(images, target) < _mse(other, target)))


def under_styles(turn: Turn, held: HeldOut, plain: float, seed: int) -> dict[str, float]:
    """PSNR where input and target are shown in another style, and the mean loss by it in dB."""
    found = {}
    for name, style in STYLES.items():
        image, target = (np.stack([2 * style((x + 1) / 2) - 1 for x in batch], dtype=np.float32)
                         for batch in (held.image, held.target))  # fmt: skip
        found[f"psnr_{name}"] = float(jnp.mean(psnr(turn(image, held.vector, seed), target, data_range=2.0)))
    return found | {"style_loss": plain - float(np.mean([*found.values()]))}


def retrieval(config: ConfigDict, turn: Turn, held: HeldOut) -> dict[str, float]:
    """How often the output is nearest to the true view at its angle, among 27 of the same patient."""
    count = config.eval.retrieval_n
    if not count:
        return {}
    grid = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid.astype(np.float32)
    rows = {name: leaf[:count] for name, leaf in held.rows.items()}
    asked = np.random.default_rng(config.seed + 13).integers(len(grid), size=count)
    turns = views.rotations_of(jnp.asarray(grid) * config.angles.limit)
    truth = render_all(config, rows, jnp.broadcast_to(turns, (count, *turns.shape)))
    front = render_all(config, rows, jnp.broadcast_to(jnp.eye(3), (count, 1, 3, 3)))[:, 0]
    shown = turn(front, grid[asked], config.seed)
    nearest = np.argmin(np.mean((truth - shown[:, None]) ** 2, axis=(2, 3, 4)), axis=1)
    return {"retrieval_27": float(np.mean(nearest == asked))}


def uncertainty(turn: Turn, held: HeldOut, seeds: int) -> dict[str, float]:
    """Several seeds: the PSNR of their mean, and how their spread goes with the error."""
    if seeds < 2:
        return {}
    several = np.stack([turn(held.image, held.vector, 100 + seed) for seed in range(seeds)])
    spread, mean = several.std(axis=0), several.mean(axis=0)
    error = np.abs(mean - held.target)
    return {
        f"psnr_of_mean_{seeds}": float(jnp.mean(psnr(mean, held.target, data_range=2.0))),
        "spread_error_correlation": float(np.corrcoef(spread.ravel(), error.ravel())[0, 1]),
    }


def landmark_errors(config: ConfigDict, held: HeldOut, images: Images, *, exact: bool) -> dict[str, float]:
    """How far landmarks are from their true projections, in mm at the isocentre; of bodies alone.

    Found by matching the truth's surroundings of each; ``exact``: of the input view itself, where they are
    known, from there.
    """
    if not patients.is_procedural(config):
        return {}
    arm, step = views.make_arm(config), config.arm.field_mm / config.arm.size
    errors = []
    for number, turn, image, target, first in zip(
        held.rows["number"], held.turns, images, held.target, _start_turns(config, held), strict=True
    ):
        points = _landmarks(int(number), config.data.source)
        there = np.asarray(c_arm.project(arm, Pose(jnp.asarray(turn), jnp.zeros(3)), points))
        if exact:
            here = np.asarray(c_arm.project(arm, Pose(jnp.asarray(first), jnp.zeros(3)), points))
            moved = here - there
        else:
            moved = block_match(image[..., 0], target[..., 0], there, window=2 * (len(image) // 16) + 1)
        errors.append(np.linalg.norm(moved, axis=1))
    return {"landmark_mm": float(np.nanmean(np.concatenate(errors)) * step)}


def angle_grid(config: ConfigDict, turn: Turn, held: HeldOut) -> tuple[Images, Images, Any]:
    """The first patient at 5 x 5 angles of yaw and pitch: views, truth, angles in degrees."""
    side = np.linspace(-1, 1, 5, dtype=np.float32)
    vector = np.array([(yaw, pitch, 0.0) for pitch in side[::-1] for yaw in side], np.float32)
    rows = {name: leaf[:1] for name, leaf in held.rows.items()}
    turns = views.rotations_of(jnp.asarray(vector) * config.angles.limit)[None]
    truth = render_all(config, rows, turns)[0]
    front = render_all(config, rows, jnp.eye(3)[None, None])[0]
    shown = turn(np.repeat(front, len(vector), axis=0), vector, config.seed, True)
    return shown, truth, vector * config.angles.limit


def split_of(config: ConfigDict, others: ConfigDict | None = None) -> str:
    """What the held-out patients are."""
    if others is not None:
        return f"of another source, {Path(others.data.source).name}"
    if patients.is_procedural(config):
        return "bodies that are not trained on"
    own = config.data.holdout or patients.has_splits(config.data.source)
    return "held-out volumes, deformed" if own else "the training's volumes under other deformations"


@partial(jax.jit, static_argnums=1)
def _landmarks(number: int, kind: str) -> Array:
    return draw_body(body_key(number), kind).landmarks


@jax.jit
def _ssim(images: Array, target: Array) -> Array:
    return ssim(images, target, data_range=2.0, padding="reflect")


def _start_turns(config: ConfigDict, held: HeldOut) -> Float[np.ndarray, "n 3 3"]:
    relative = np.asarray(views.rotations_of(jnp.asarray(held.vector) * config.angles.limit))
    return held.turns @ np.swapaxes(relative, 1, 2)


def _mse(images: Images, target: Images) -> np.ndarray:
    return np.mean((images - target) ** 2, axis=(1, 2, 3))


def _unit(x: np.ndarray) -> np.ndarray:
    return (x - x.min()) / (x.max() - x.min())
