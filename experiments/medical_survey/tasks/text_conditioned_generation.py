"""Generation from a report: heads as a sentence of a small vocabulary describes them.

The network sees which words the report holds (``diffax.data.reports``); training leaves facts out now and
then, so that short sentences work, and whole reports, for guidance (Chambon et al. 2022, RoentGen,
arXiv:2211.12737, is the field's example, with a language model in the words' place). A classifier of real
images tells which facts a sample shows. The baseline draws from a Gaussian fit to the real images with the
same report.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key
from ml_collections import ConfigDict

from diffax import checks
from diffax.data import ArraySource, phantoms, reports
from diffax.evaluation import Classifier, extract, frechet_distance, random_features, train_classifier
from diffax.io import samples
from diffax.training.step import Batch
from diffax.types import Params
from experiments import build
from experiments.medical_survey.tasks import base, measures, pictures
from experiments.medical_survey.tasks.cases import PHANTOMS, blank, open_cases

FACTS = ("lesion", "left", "large", "enlarged")
# every report there is: without a lesion it has neither side nor size
COMBINATIONS = np.array(
    [f for f in itertools.product((False, True), repeat=4) if f[0] or not (f[1] or f[2])], bool
)
Images = Float[np.ndarray, "n h w 1"]


def make_task(config: ConfigDict) -> base.Task:
    """The task for the embedded heads, whose reports are known."""
    checks.require(config.data.source == PHANTOMS, "config.data.source", config.data.source, PHANTOMS)
    field = config.data.image
    needs = (field, "label")
    cases = open_cases(config, needs)
    network = base.make_network(config, vector_size=len(reports.WORDS))
    size = config.data.size

    def example(batch: Batch, key: Key[Array, ""]) -> base.Example:
        facts = phantoms.facts(batch)
        said = ~jax.random.bernoulli(key, config.drop_facts, facts.shape)
        vector = reports.report_vectors(facts, said)
        return base.Example(batch[field], conditions(vector, size))

    model = base.Model(network, build.make_process(config.process), (size, size, 1), example)

    def evaluate(networks: base.Networks, workdir: Path) -> Mapping[str, Any]:
        n = config.eval.n
        asked = COMBINATIONS[np.arange(n) % len(COMBINATIONS)]
        known, held = cases.training(4000), cases.held_out(2 * n)
        reader = train_reader(config, known, cases.held_out(500))
        real = real_like(held, asked, field)
        found, first = {}, config.eval.guidance[0]
        for scale in config.eval.guidance:
            some = asked[: None if scale == first else config.eval.n_others]
            drawn = generate(config, model, networks["model"], reports_of(some), scale)
            found[f"guidance_{scale:g}"] = measure(reader, drawn, some, real if scale == first else None)
            samples.write_npz(workdir / f"samples-guidance_{scale:g}.npz", image=drawn, facts=some)
        found[""] = found[f"guidance_{first:g}"]
        found["gaussian"] = measure(reader, gaussian(known, asked, field), asked, real)
        found["real"] = measure(reader, real, asked, real_like(known, asked, field))
        draw(networks, workdir)
        about = {"n_real": n, "n_fake": n, "split": cases.split, "seed": config.seed}
        return measures.report(found, **about, extractor=random_features(1).label)

    def draw(networks: base.Networks, workdir: Path) -> None:
        prompts, scale = tuple(config.sample.prompts), config.eval.guidance[0]
        vectors = np.repeat([reports.read_report(prompt) for prompt in prompts], 5, axis=0)
        drawn = generate(config, model, networks["model"], vectors, scale)
        columns = {p: drawn[5 * k : 5 * k + 5] for k, p in enumerate(prompts)}
        pictures.rows(workdir / "samples-reports.png", {_broken(p): v for p, v in columns.items()})

    def init(key: Key[Array, ""]) -> dict[str, Params]:
        return {"model": base.init_params(model, blank(config, needs), key)}

    for prompt in config.sample.prompts:
        reports.read_report(prompt)
    return base.Task(needs, init, {"model": base.make_loss(config, model)}, evaluate, draw)


def generate(
    config: ConfigDict, model: base.Model, params: Params, vectors: Float[np.ndarray, "n w"], scale: float
) -> Images:
    """An image for each report."""
    run = base.make_sample(config, model, base.guided(scale))
    keys = jax.random.split(jax.random.key(config.seed + 30), len(vectors))
    return np.asarray(run(params, keys, conditions(jnp.asarray(vectors), config.data.size)))


def conditions(vectors: Float[Array, "n w"], size: int) -> dict[str, Array]:
    """The words, and each word times where a pixel lies, in [-1, 1]: (n, size, size, 2 + 2 w) channels.

    Words alone scale and shift whole feature maps, and heads are nearly symmetric: after 1000 steps such
    a network drew lesions on either side whatever it was told, also with the places alone.
    """
    axis = (jnp.arange(size) + 0.5) / size * 2 - 1
    places = jnp.stack(jnp.meshgrid(axis, axis), axis=-1)
    words = jnp.concatenate([jnp.ones((len(vectors), 1)), vectors], axis=1)
    by_word = jnp.einsum("nw,yxd->nyxwd", words, places)
    return {"vector": vectors, "concat": by_word.reshape(len(vectors), size, size, -1)}


def reports_of(facts: Bool[np.ndarray, "n 4"]) -> Float[np.ndarray, "n w"]:
    """Vectors of the sentences that state all facts."""
    return np.stack([reports.read_report(reports.write_report(f)) for f in facts])


def train_reader(config: ConfigDict, known: Batch, test: Batch) -> Classifier:
    """A classifier of real images into all combinations of facts."""
    sources = [ArraySource(c[config.data.image], combination(c)) for c in (known, test)]
    return train_classifier(*sources, seed=config.seed, steps=config.eval.reader_steps)


def measure(
    reader: Classifier, drawn: Images, asked: Bool[np.ndarray, "n 4"], real: Images | None
) -> dict[str, measures.Value]:
    """Which of the facts asked for the reader finds, all of them and one by one; distance to real images.

    No distance without them: those of different numbers of images do not compare.
    """
    drawn = np.clip(drawn, -1, 1)
    read = COMBINATIONS[np.asarray(reader.logits(jnp.asarray(drawn))).argmax(axis=1)]
    right = read == asked
    found: dict[str, measures.Value] = {"all_facts": right.all(axis=1).astype(np.float64)}
    for k, name in enumerate(FACTS):
        chosen = asked[:, 0] if name in ("left", "large") else np.ones(len(asked), bool)
        found[name] = right[chosen, k].astype(np.float64)
    if real is None:
        return found
    extractor = random_features(1)
    return found | {"frechet": frechet_distance(*(extract(extractor, x) for x in (real, drawn)))}


def combination(batch: Batch) -> np.ndarray:
    """The index in :data:`COMBINATIONS` of each case's facts."""
    facts = np.asarray(phantoms.facts(batch))
    return (facts[:, None] == COMBINATIONS).all(axis=-1).argmax(axis=1).astype(np.int32)


def real_like(batch: Batch, asked: Bool[np.ndarray, "n 4"], field: str) -> Images:
    """Real images with the facts asked for, in their order, some several times where there are few."""
    index = combination(batch)
    wanted = (asked[:, None] == COMBINATIONS).all(axis=-1).argmax(axis=1)
    taken = [np.resize(np.flatnonzero(index == c), (wanted == c).sum()) for c in range(len(COMBINATIONS))]
    places = np.empty(len(asked), int)
    for c, rows in enumerate(taken):
        places[wanted == c] = rows
    return np.asarray(batch[field])[places]


def gaussian(known: Batch, asked: Bool[np.ndarray, "n 4"], field: str) -> Images:
    """Draws from a Gaussian fit to the known images with each report."""
    rng, index = np.random.default_rng(0), combination(known)
    wanted = (asked[:, None] == COMBINATIONS).all(axis=-1).argmax(axis=1)
    images = np.asarray(known[field])
    found = np.empty((len(asked), *images.shape[1:]), np.float32)
    for c in range(len(COMBINATIONS)):
        own = images[index == c]
        mean = own.mean(axis=0)
        weights = rng.normal(size=((wanted == c).sum(), len(own))) / max(1, len(own)) ** 0.5
        found[wanted == c] = mean + np.tensordot(weights, own - mean, axes=1)
    return np.clip(found, -1, 1)


def _broken(prompt: str) -> str:
    """In lines that fit a column's title."""
    return prompt.replace(", ", ",\n").replace(" on ", "\non ")
