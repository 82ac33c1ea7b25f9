"""What is measured of flows that register pairs, and the pictures of them."""

import importlib.util
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from diffax.evaluation import dice, psnr
from diffax.operators.warping import folding_share, inverse_consistency, invert, local_ncc, warp, warp_labels
from experiments.medical_survey import demons
from experiments.medical_survey.tasks import measures, pictures
from experiments.medical_survey.tasks.warped_pairs import LABELS, Pairs
from experiments.progress import say

Flow = Float[np.ndarray, "n h w 2"]
Images = Float[Array, "n h w 1"]
Way = Callable[[Any, Any, float], Flow]  # (moving, fixed, eta) -> flow
Ways = Mapping[str, Way]
WHITE_MATTER = 3  # of diffax.data.phantoms.TISSUES
ABOUT = {
    "name": "images in [-1, 1], PSNR's data range 2, at most 100 dB; "
    "NCC: mean squared correlation in 9 x 9 windows; "
    "Dice: mean over the labels of a case; end-point error, in pixels, where the fixed image is not air"
}


def evaluate(config: ConfigDict, pairs: Pairs, ways: Ways, workdir: Path, split: str) -> dict[str, Any]:
    """Figures of each way and of the simple ones; ``registered.png``, ``path.png`` and its curve."""
    flows = {name: both_ways(way, pairs) for name, way in ways.items()} | simple_ways(config, pairs)
    found = {name: measure(pairs, there, back) | extra for name, (there, back, extra) in flows.items()}
    paths = {name: follow(pairs, way, config.eval.etas) for name, way in ways.items()}
    for name, path in paths.items():
        start = path["displacement"][0]  # 0 where the way starts at the moving image itself
        found[name] = found[name] | {"eta_monotone": path["monotone"], "displacement_at_first_eta": start}
    draw(pairs, flows[""][0], workdir, "registered.png")
    draw_path(config, pairs, ways[""], paths, workdir)
    n = len(pairs.fixed)
    return measures.report(found, n_real=n, n_fake=n, seed=config.seed, split=split, extractor=ABOUT)


def measure(pairs: Pairs, flow: Flow, back: Flow | None = None) -> dict[str, measures.Value]:
    """Of each pair: agreement of ``warp(moving, flow)`` with the fixed image and of their labels, end-point
    error in pixels, mean length of the flow, share of folds, and with the flow ``back`` from the fixed to
    the moving image, by how many pixels both together miss.
    """
    inside = np.asarray(pairs.inside)
    compared = {k: np.asarray(v) for k, v in _compared(pairs.moving, pairs.fixed, flow).items()}
    found: dict[str, measures.Value] = {
        "psnr": np.minimum(compared["psnr"], 100.0),
        "ncc": compared["ncc"],
        "displacement": _mean_length(flow, inside),
        "folding_share": compared["folding_share"],
    }
    if pairs.moving_labels is not None and pairs.fixed_labels is not None:
        labels = np.asarray(_moved_labels(pairs.moving_labels, flow, LABELS))
        truth = np.asarray(pairs.fixed_labels)
        found["dice"] = mean_dice(labels, truth)
        if truth.max() >= WHITE_MATTER:
            found["dice_white_matter"] = dice(labels == WHITE_MATTER, truth == WHITE_MATTER)
    if pairs.flow is not None:
        found["end_point_error"] = _mean_length(flow - np.asarray(pairs.flow), inside)
    if back is not None:
        found["inverse_consistency"] = np.asarray(_consistency(flow, back))
    return found


@jax.jit
def _compared(moving: Images, fixed: Images, flow: Flow) -> dict[str, Float[Array, "n"]]:
    moved = warp(moving, flow)
    alike = {"psnr": psnr(moved, fixed, data_range=measures.RANGE), "ncc": local_ncc(moved, fixed)}
    return alike | {"folding_share": folding_share(flow)}


_consistency = jax.jit(inverse_consistency)
_moved_labels = jax.jit(warp_labels, static_argnums=2)


def mean_dice(found: Int[np.ndarray, "n h w"], truth: Int[np.ndarray, "n h w"]) -> Float[np.ndarray, "n"]:
    """Mean over the labels above 0 that a case has in either; 1 for a case without any."""
    labels = range(1, LABELS)
    each = np.stack([dice(found == k, truth == k) for k in labels])
    there = np.stack([((found == k) | (truth == k)).any(axis=(1, 2)) for k in labels])
    return np.where(there.any(axis=0), (each * there).sum(axis=0) / np.maximum(there.sum(axis=0), 1), 1.0)


def both_ways(way: Way, pairs: Pairs) -> tuple[Flow, Flow, dict[str, measures.Value]]:
    """The flow of each pair, that of each pair turned round, and seconds a pair."""
    there = way(pairs.moving, pairs.fixed, 1.0)  # compiles
    begun = time.perf_counter()
    back = way(pairs.fixed, pairs.moving, 1.0)
    return there, back, {"seconds": (time.perf_counter() - begun) / len(there)}


def simple_ways(
    config: ConfigDict, pairs: Pairs
) -> dict[str, tuple[Flow, Flow | None, dict[str, measures.Value]]]:
    """Demons (left out without SimpleITK), no flow, and the true one if it is known."""
    found: dict[str, tuple[Flow, Flow | None, dict[str, measures.Value]]] = {}
    moving, fixed = (np.asarray(v)[..., 0] for v in (pairs.moving, pairs.fixed))

    def by_demons(first: Any, second: Any, eta: float) -> Flow:
        options = config.eval.demons.to_dict()
        return np.stack([demons.demons(f, m, **options) for m, f in zip(first, second, strict=True)])

    if importlib.util.find_spec("SimpleITK"):
        found["demons"] = both_ways(by_demons, pairs._replace(moving=moving, fixed=fixed))
    else:  # not at the end of a training that went well
        say("left out: demons, which need pip install SimpleITK")
    nothing = np.zeros((*moving.shape, 2), np.float32)
    found["identity"] = (nothing, None, {})
    if pairs.flow is not None:
        found["true_flow"] = (np.asarray(pairs.flow), np.asarray(invert(pairs.flow)), {})
    return found


def follow(pairs: Pairs, way: Way, etas: tuple[float, ...]) -> dict[str, np.ndarray]:
    """The way from eta = 0 to 1: mean displacement (px) and NCC at each (eta, n), and whether a pair's both
    grow with every step."""
    flows = [way(pairs.moving, pairs.fixed, eta) for eta in etas]
    inside = np.asarray(pairs.inside)
    length = np.stack([_mean_length(flow, inside) for flow in flows])
    alike = np.stack([np.asarray(_compared(pairs.moving, pairs.fixed, flow)["ncc"]) for flow in flows])
    grows = (np.diff(length, axis=0) > 0).all(axis=0) & (np.diff(alike, axis=0) > 0).all(axis=0)
    return {"displacement": length, "ncc": alike, "monotone": grows.astype(np.float64)}


def draw(pairs: Pairs, flow: Flow, workdir: Path, name: str = "samples-registered.png") -> None:
    """Both images, the warped one, what differs before and after, and a square grid moved alike."""
    moving, fixed = np.asarray(pairs.moving), np.asarray(pairs.fixed)
    moved = np.asarray(warp(pairs.moving, jnp.asarray(flow)))
    columns = {"moving": moving, "fixed": fixed, "warped": moved}
    columns |= {"difference before": moving - fixed, "difference after": moved - fixed}
    if pairs.flow is not None:
        columns["true grid"] = grid_picture(np.asarray(pairs.flow[:6]))
    pictures.rows(workdir / name, columns | {"grid": grid_picture(flow[:6])})


def draw_path(
    config: ConfigDict, pairs: Pairs, way: Way, paths: Mapping[str, Mapping[str, np.ndarray]], workdir: Path
) -> None:
    """``path.png``: the moving image on its way to the fixed one; ``path-curves.png``: how alike they get."""
    few = Pairs(*(None if v is None else v[:6] for v in pairs))
    columns = {"moving": np.asarray(few.moving)}
    for eta in config.eval.etas:
        flow = jnp.asarray(way(few.moving, few.fixed, eta))
        columns[f"eta {eta:g}"] = np.asarray(warp(few.moving, flow))
    pictures.rows(workdir / "path.png", columns | {"fixed": np.asarray(few.fixed)})
    lines = {
        f"{name or 'diffusion'}: {what}": (config.eval.etas, path[what].mean(axis=1))
        for name, path in paths.items()
        for what in ("ncc", "displacement")
    }
    pictures.curves(workdir / "path-curves.png", lines, ("eta", "NCC; displacement in px"))


def grid_picture(flow: Flow, zoom: int = 6, lines: int = 8) -> Float[np.ndarray, "n H W 1"]:
    """``lines`` lines each way that are straight in the moving image, ``zoom`` times as large; in [-1, 1]."""
    height, width = flow.shape[1:3]
    large = (len(flow), height * zoom, width * zoom, 2)
    place = (np.stack(np.mgrid[: large[1], : large[2]], axis=-1) + 0.5) / zoom
    place = place + np.asarray(jax.image.resize(jnp.asarray(flow), large, "linear"))
    spacing = np.array([height, width]) / lines
    distance = (np.abs(place / spacing - np.round(place / spacing)) * spacing).min(axis=-1) * zoom
    return (2 * np.clip(1.5 - distance, 0, 1) - 1)[..., None].astype(np.float32)


def _mean_length(flow: Flow, inside: np.ndarray) -> Float[np.ndarray, "n"]:
    """Mean length of the flow in pixels, inside; 0 for an image of air alone."""
    length = np.sqrt((np.asarray(flow, np.float64) ** 2).sum(axis=-1))
    return (length * inside).sum(axis=(1, 2)) / np.maximum(inside.sum(axis=(1, 2)), 1)
