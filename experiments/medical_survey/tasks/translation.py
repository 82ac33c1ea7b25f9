"""Translation between modalities: with pairs by a conditional denoiser, without by a bridge of two DDIM
paths.

* ``paired``: the target is diffused, the source is the condition (Saharia et al. 2022, Palette,
  arXiv:2111.05826; Lyu & Wang 2022, arXiv:2209.12104);
* ``unpaired``: one network learns both modalities from heads of which it sees either, never both, told apart
  by their label. An image is encoded by DDIM under its own label, and decoded under the other's (Su et al.
  2023, arXiv:2203.08382).

Baselines: the source as it is, the best map of single greys, and the U-Net that regresses on the same
batches.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from diffax import checks, sample
from diffax.guidance import static_threshold
from diffax.samplers import ddim, ddim_inversion
from diffax.training.step import Batch
from diffax.types import Params
from experiments import build
from experiments.medical_survey.tasks import base, measures, paired, pictures
from experiments.medical_survey.tasks.cases import Cases, blank, open_cases

Images = Float[np.ndarray, "n h w 1"]


def make_task(config: ConfigDict) -> base.Task:
    """The task from ``config.data.image`` to ``config.data.target``."""
    checks.require_one_of("config.pairs", config.pairs, ("paired", "unpaired"))
    needs = (config.data.image, config.data.target)
    cases = open_cases(config, needs)
    return (_paired if config.pairs == "paired" else _unpaired)(config, cases, needs)


def _paired(config: ConfigDict, cases: Cases, needs: tuple[str, ...]) -> base.Task:
    given, wanted = needs
    model = paired.make_model(config, lambda batch: batch[given], lambda batch, key: batch[wanted])

    def answers(networks: base.Networks, source: Images, count: int) -> dict[str, Images]:
        x = jnp.asarray(source)
        several = np.asarray(paired.draws(config, model, networks["model"], x, count))
        plain = jax.jit(paired.answer, static_argnums=0)(model.network, networks["baseline"], x)
        return {"": several[0], f"mean_of_{count}": several.mean(axis=0), "unet": np.asarray(plain)}

    def evaluate(networks: base.Networks, workdir: Path) -> Mapping[str, Any]:
        test = cases.held_out(config.eval.n)
        found = answers(networks, test[given], config.eval.draws)
        return _report(config, cases, test, found, workdir / "translated.png")

    def draw(networks: base.Networks, workdir: Path) -> None:
        test = cases.held_out(config.sample.n)
        shown = {given: test[given]} | answers(networks, test[given], 2) | {wanted: test[wanted]}
        pictures.rows(workdir / "samples-translated.png", {k or "diffusion": v for k, v in shown.items()})

    def squared(found: Array, truth: Array) -> Array:
        return (found - truth) ** 2

    return base.Task(
        needs, paired.init(config, model, needs), paired.losses(config, model, squared), evaluate, draw
    )


def _unpaired(config: ConfigDict, cases: Cases, needs: tuple[str, ...]) -> base.Task:
    given, wanted = needs

    def example(batch: Batch, key: Key[Array, ""]) -> base.Example:
        label = jax.random.bernoulli(key, 0.5, batch[given].shape[:1]).astype(jnp.int32)
        chosen = jnp.where(label[:, None, None, None] > 0, batch[wanted], batch[given])
        return base.Example(chosen, {"label": label})

    size, process = config.data.size, build.make_process(config.process)
    model = base.Model(base.make_network(config, num_classes=2), process, (size, size, 1), example)

    @jax.jit
    def bridge(params: Params, keys: Array, x: Array) -> Array:
        first = jnp.maximum(process.t_min, 1e-3)
        grid = jnp.linspace(config.eval.depth * process.t_max, first, config.eval.steps + 1)
        denoise = base.denoiser(config, model, params)
        labels = [{"label": jnp.full(x.shape[:1], k)} for k in (0, 1)]
        code = ddim_inversion(denoise, process, x, grid, cond=labels[0])
        decode = static_threshold()(denoise)
        return sample(keys, decode, process, ddim(), grid, x_init=code, cond=labels[1]).x

    def answers(networks: base.Networks, source: Images) -> dict[str, Images]:
        keys = jax.random.split(jax.random.key(config.seed + 29), len(source))
        return {"": np.asarray(bridge(networks["model"], keys, jnp.asarray(source)))}

    def evaluate(networks: base.Networks, workdir: Path) -> Mapping[str, Any]:
        test = cases.held_out(config.eval.n)
        return _report(config, cases, test, answers(networks, test[given]), workdir / "translated.png")

    def draw(networks: base.Networks, workdir: Path) -> None:
        test = cases.held_out(config.sample.n)
        shown = {given: test[given]} | answers(networks, test[given]) | {wanted: test[wanted]}
        pictures.rows(workdir / "samples-translated.png", {k or "diffusion": v for k, v in shown.items()})

    def init(key: Key[Array, ""]) -> dict[str, Params]:
        return {"model": base.init_params(model, blank(config, needs), key)}

    return base.Task(needs, init, {"model": base.make_loss(config, model)}, evaluate, draw)


def _report(
    config: ConfigDict, cases: Cases, test: Batch, found: Mapping[str, Images], picture: Path
) -> dict[str, Any]:
    """The answers' agreement with the truth, beside the simple ways'."""
    given, wanted = config.data.image, config.data.target
    known = cases.training(1000)
    everything = dict(found) | {
        "copy": test[given],
        "grey_map": grey_map(known[given], known[wanted], test[given]),
        "mean_image": np.broadcast_to(known[wanted].mean(axis=0), test[wanted].shape),
    }
    measured = {k: measures.agreement(np.clip(v, -1, 1), test[wanted]) for k, v in everything.items()}
    shown = {given: test[given], **{k or "diffusion": v for k, v in everything.items()}, wanted: test[wanted]}
    pictures.rows(picture, shown)
    about = {"n_real": len(test[given]), "n_fake": len(test[given]), "seed": config.seed}
    return measures.report(measured, **about, split=cases.split, extractor=measures.AGREEMENT)


def grey_map(source: Images, target: Images, x: Images, levels: int = 64) -> Images:
    """The best function of a single grey: the mean of the target at each level of the source."""
    edges = np.linspace(-1, 1, levels + 1)[1:-1]
    level = np.digitize(source, edges).ravel()
    counts = np.bincount(level, minlength=levels)
    sums = np.bincount(level, weights=target.ravel(), minlength=levels)
    known = np.flatnonzero(counts)
    table = np.interp(np.arange(levels), known, sums[known] / counts[known])
    return table[np.digitize(x, edges)].astype(np.float32)
