"""Images: modes that a classifier is sure of, quality beside real images and noise, and what z changes."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from diffax import data
from diffax.evaluation import classifier_modes, stacked_modes
from diffax.io import samples, write_samples
from diffax.models import TENSOR_RULES
from diffax.processes import perturb
from diffax.training import distributed
from diffax.types import Keys, Params
from experiments import build
from experiments.ddgan import pictures
from experiments.ddgan.method import Method
from experiments.ddgan.sampling import costs, draw_samples, generate
from experiments.ddgan.target import Target
from experiments.figures import as_figures, as_rows
from experiments.pictures import sheet
from experiments.progress import Counted
from experiments.reference import HELD_OUT, Reference, make_reference, quality


def make_target(config: ConfigDict) -> Target:
    """The images of ``config.data``."""
    source = build.open_source(config.data, "train")
    return Target(
        shape=tuple(source.spec.shapes["image"]),
        field="image",
        data=lambda index, count: build.make_pipeline(config, source, index, count),
        evaluate=lambda made, params, workdir: evaluate(config, made, params, workdir),
        draw=lambda made, params, step, workdir: draw(config, made, params, step, workdir),
        rules=TENSOR_RULES,
    )


def evaluate(config: ConfigDict, made: Method, params: Params, workdir: Path) -> dict[str, Any]:
    """Figures of the generator's samples, of real images and of plain noise; what steps cost; pictures."""
    n, size, key = config.eval.n, config.eval.batch_size, jax.random.key(config.seed + 2)
    real = data.stack_items(build.open_source(config.data, HELD_OUT), config.eval.real_n or n)["image"][:n]
    shape = real.shape[1:]
    generate(made, shape, params, key, size, size)  # compilation is outside the clock
    begun = time.perf_counter()
    drawn = np.clip(generate(made, shape, params, key, n, size), -1, 1)
    seconds = time.perf_counter() - begun
    noise = np.clip(np.random.default_rng(config.seed).standard_normal(drawn.shape), -1, 1)
    reference = _reference(config, workdir)
    sets = {"": drawn, "real": real, "noise": noise.astype(np.float32)}
    counted = {name: count_modes(config, images, reference) for name, images in sets.items()}
    counted[""] |= {"nfe": len(made.grid) - 1, "seconds_per_100": 100 * seconds / n, "n": n}
    compared = {name: compare(config, images, reference) for name, images in sets.items()}
    m = len(_parts(config, drawn[: config.eval.quality_n], reference))
    about = {"split": HELD_OUT, "extractor": reference.extractor.label, "seed": config.seed}
    figures = as_figures(counted, n_fake=n, **about)
    figures += as_figures(compared, n_fake=m, n_real=len(reference.held_out_features), **about)
    extra = {
        **spreads(config, made, params, real, key),
        **costs(made, shape, params, key, config.eval.timing_n),
    }
    figures += as_figures(extra, seed=config.seed)
    samples.write_npz(workdir / "samples.npz", image=drawn)
    draw_pictures(made, params, real, drawn, workdir)
    found = {name: counted[name] | compared[name] for name in sets}
    return {"figures": figures, "rows": as_rows({**found, **extra}, "ddgan")}


def count_modes(config: ConfigDict, images: np.ndarray, reference: Reference) -> dict[str, float]:
    """Modes of all images, by the classifier of whole images or of each of their channels.

    ``modes``, ``kl`` and ``tv`` count an image if every class probability is at least ``config.eval.gate``;
    ``high_quality`` is their share; ``modes_raw`` and ``kl_raw`` count all, as published figures do.
    """
    if reference.classifier is None:
        return {}
    p = reference.classifier.probabilities(_parts(config, images, reference))
    if config.eval.channel_source:
        cover = partial(stacked_modes, p.reshape(len(images), -1, p.shape[-1]))
    else:
        cover = partial(classifier_modes, p, np.bincount(reference.held_out["label"], minlength=p.shape[-1]))
    sure, everything = cover(gate=config.eval.gate), cover(gate=1e-6)
    return {
        "modes": sure.modes,
        "high_quality": sure.high_quality,
        "kl": sure.kl,
        "tv": sure.total_variation,
        "modes_raw": everything.modes,
        "kl_raw": everything.kl,
    }


def compare(config: ConfigDict, images: np.ndarray, reference: Reference) -> dict[str, float]:
    """Quality of the first ``config.eval.quality_n`` images, or of their channels."""
    return quality(_parts(config, images[: config.eval.quality_n], reference), reference)


def spreads(
    config: ConfigDict, made: Method, params: Params, real: np.ndarray, key: Key[Array, ""]
) -> dict[str, dict[str, float]]:
    """How far the latent alone moves the generator's x0 at each step: root mean variance over 16 of z."""
    n, copies = config.eval.spread_n, 16
    if not made.latent or made.direct or made.objective == "augmented":
        return {}
    keys, x0, found = jax.random.split(key), jnp.asarray(real[:n]), {}
    for index in range(made.steps):
        t = jnp.full(len(x0), (index + 1) / made.steps)
        x_t = jnp.repeat(perturb(made.process, x0, jax.random.normal(keys[0], x0.shape), t), copies, axis=0)
        z = jax.random.normal(keys[1], (len(x_t), made.latent))
        drawn = jax.jit(made.generate)(params, x_t, jnp.repeat(t, copies), {"z": z})
        grouped = drawn.reshape(len(x0), copies, -1)
        found[f"spread_{index}"] = {"rms": float(jnp.sqrt(jnp.mean(jnp.var(grouped, axis=1))))}
    return found


def draw_pictures(made: Method, params: Params, real: np.ndarray, drawn: np.ndarray, workdir: Path) -> None:
    """Sheets of samples and of real images, their channels as colours, and paths from noise to sample."""
    sheet(workdir / "samples-sheet.png", drawn[:100])
    sheet(workdir / "real.png", real[:100])
    key = jax.random.key(0)
    paths = generate(made, drawn.shape[1:], params, key, 8, 8, return_path=True)
    pictures.draw_paths(workdir / "samples-path.png", paths)
    if drawn.shape[-1] == 3:
        pictures.channels(workdir / "samples-channels.png", drawn[:16])


def draw(config: ConfigDict, made: Method, params: Params, step: int, workdir: Path) -> None:
    """``config.sample.n`` samples as ``.npz`` files (and PNGs where asked for), and a sheet."""
    shape = tuple(build.open_source(config.data, "train").spec.shapes["image"])

    def call(params: Params, keys: Keys, _: Any) -> Array:
        return draw_samples(made, shape, params, keys)

    files = write_samples(
        call,
        params,
        jax.random.key(config.seed + 1),
        np.full(config.sample.n, -1),
        workdir,
        "samples",
        batch_size=config.sample.batch_size,
        per_file=config.sample.per_file,
        identity={"step": step, "ema": config.sample.ema},
        png=config.sample.png,
        progress=Counted("samples"),
    )
    if distributed.is_main():
        sheet(workdir / "samples-sheet.png", np.load(files[0])["image"][:100])


def _reference(config: ConfigDict, workdir: Path) -> Reference:
    """Of the channels' own source, where they have one."""
    settings, one = config.eval, config.eval.channel_source
    source: Mapping[str, Any] = {**config.data, "source": one} if one else config.data
    return make_reference(
        source,
        workdir,
        labelled=True,
        seed=config.seed,
        steps=settings.classifier_steps,
        inception=settings.inception,
        limit=settings.real_n or None,
    )


def _parts(
    config: ConfigDict, images: Float[np.ndarray, "n h w c"], reference: Reference
) -> Float[np.ndarray, "m h2 w2 c2"]:
    """Whole images, or their channels as images of one each; the margin that stacking added is cut off."""
    if not config.eval.channel_source:
        return images
    size = reference.held_out["image"].shape[1:3]
    top, left = (images.shape[1] - size[0]) // 2, (images.shape[2] - size[1]) // 2
    inner = images[:, top : top + size[0], left : left + size[1]]
    return np.moveaxis(inner, -1, 1).reshape(-1, *size, 1)
