"""What a trained decoder is worth, and what each way of compressing it leaves of that."""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffax.evaluation import Figure
from diffax.evaluation.text import decoder_logits, perplexity
from diffax.io.decoder_config import stock_fields
from diffax.io.decoder_files import DecoderFiles
from diffax.io.decoder_writer import write_decoder
from diffax.io.files import write_text
from diffax.models.decoder_lm import DecoderConfig, DecoderLM
from diffax.models.generation import Choice, generate
from diffax.types import Params
from experiments.modegpt.corpus import Corpus
from experiments.modegpt.runner import Runner
from experiments.modegpt.tables import as_figures, table, write_table


class Trained(NamedTuple):
    """A decoder, its text, and the checkpoint that it comes from, if any."""

    config: ConfigDict
    shape: DecoderConfig
    params: Params
    corpus: Corpus
    files: DecoderFiles | None


def evaluate(trained: Trained, workdir: Path) -> Mapping[str, Any]:
    """Perplexity on held-out text; of a decoder that is whole, the table of methods and ratios as well.

    ``model/`` is its checkpoint, as Hugging Face has them.
    """
    shutil.rmtree(workdir / "model", ignore_errors=True)
    write_model(trained, workdir / "model")
    some = trained.corpus.held_out[: trained.config.eval.chunks]
    about = {"n_real": some[:, 1:].size, "split": trained.corpus.source, "seed": trained.config.seed}
    found = perplexity(decoder_logits(DecoderLM(trained.shape), jax.device_put(trained.params)), some)
    figures = [Figure("perplexity", found.value, low=found.low, high=found.high, **about)]
    if trained.files:
        before = perplexity(
            decoder_logits(DecoderLM(trained.shape), jax.device_put(trained.files.params())), some
        )
        figures.append(Figure("perplexity_before", before.value, low=before.low, high=before.high, **about))
        return {"figures": figures, "rows": [], "notes": {}}
    settings = trained.config.compress
    calibration = trained.corpus.train[: settings.sequences]
    runner = Runner(DecoderFiles(workdir / "model"))
    rows = table(runner, calibration, some, settings.methods, settings.ratios, trained.config.seed)
    write_table(workdir, rows)
    return {
        "figures": figures + as_figures(rows, **about),
        "rows": [row._asdict() for row in rows],
        "notes": {},
    }


def draw(trained: Trained, workdir: Path) -> None:
    """``samples.txt``: what follows the prompt."""
    options, tokenizer = trained.config.sample, trained.corpus.tokenizer
    prompt = jnp.tile(jnp.asarray([tokenizer.encode(options.prompt)], jnp.int32), (options.n, 1))
    write = jax.jit(
        partial(
            generate,
            DecoderLM(trained.shape),
            steps=options.steps,
            choice=Choice(options.temperature).check(),
        )
    )
    keys = jax.random.split(jax.random.key(trained.config.seed), options.n)
    rows = write(jax.device_put(trained.params), prompt, keys=keys)
    texts = [tokenizer.decode([*prompt[0].tolist(), *row]) for row in rows.tolist()]
    write_text(workdir / "samples.txt", "\n\n---\n\n".join(texts) + "\n")


def export(trained: Trained, folder: Path) -> None:
    """The checkpoint with its tokenizer, into a new folder."""
    write_model(trained, folder)


def write_model(trained: Trained, folder: Path) -> None:
    """A checkpoint as Hugging Face has them."""
    tokenizer, files = trained.corpus.tokenizer, trained.files
    fields = files.fields if files else stock_fields(trained.shape, trained.shape.layers[0].hidden)
    fields = {**fields, "bos_token_id": tokenizer.begin, "eos_token_id": tokenizer.end}
    form = "compact" if str(fields["model_type"]).startswith("compact_") else "padded"
    write_decoder(folder, trained.shape, trained.params, fields, form)
    tokenizer.save(folder)
