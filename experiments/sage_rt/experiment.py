"""Composition: a small decoder that learns Toyland, or a checkpoint aligned by pairs of answers.

Without ``config.checkpoint`` a decoder from scratch learns to answer as Toyland's policy asks, in some
phrasings (see ``toytext``). With it training goes on from that folder by ``config.align.loss``, on the pairs
of ``config.align.pairs``: a folder that ``experiments.sage_rt.export --form=preference`` wrote."""

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffax import checks, data
from diffax.data.tokenizer import Tokenizer, load_tokenizer
from diffax.evaluation import Figure
from diffax.evaluation.text import decoder_logits, perplexity, token_nats
from diffax.io.decoder_config import stock_fields
from diffax.io.decoder_files import DecoderFiles
from diffax.io.decoder_writer import write_decoder
from diffax.models import TENSOR_RULES
from diffax.models.decoder_lm import DecoderConfig, DecoderLM, uniform_layers
from diffax.training import TrainState, init_net, make_optimizer, make_train_step
from diffax.training.step import Batch
from diffax.types import Params
from experiments import build
from experiments.base import Experiment
from experiments.sage_rt import align, toytext

_HELD_OUT = 7  # the seed of pairs to measure on; training's is the configuration's


def make_experiment(config: ConfigDict) -> Experiment:
    """Check the configuration by building everything it names, then hand out the parts."""
    files = DecoderFiles(config.checkpoint) if config.checkpoint else None
    checks.require_one_of("config.align.loss", config.align.loss, align.LOSSES)
    tokenizer = load_tokenizer(files.folder) if files else toytext.make_tokenizer(config.model.vocabulary)
    shape = files.config if files else decoder_of(config, tokenizer)
    longest = config.data.length
    checks.require(longest <= shape.positions, "config.data.length", longest, f"at most {shape.positions}")
    model = DecoderLM(shape)
    optimizer = make_optimizer(build.make_optimizer_config(config.train.optimizer), config.train.num_steps)

    def init(key: Key[Array, ""], known: Params | None = None) -> TrainState:
        init_key, run_key = jax.random.split(key)
        params = known or model.init(init_key, jnp.zeros((1, 2), jnp.int32))["params"]
        # the frozen copy is what DPO compares with
        frozen = {"reference": params} if config.align.loss == "dpo" and files else {}
        return TrainState.create(run_key, {"model": init_net(params, optimizer, {})}, frozen)

    def begin(workdir: Path) -> Any:
        known = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), files.params()) if files else None
        return functools.partial(init, known=known)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        if files:
            loss = align.make_loss(model, config.align, state.frozen.get("reference"))
        else:
            loss = functools.partial(answer_loss, model)
        return make_train_step(loss, optimizer, {}, accumulate=config.train.accumulate)(state, batch)

    def rows(index: int, count: int) -> data.Pipeline:
        source = align.open_pairs(config, tokenizer) if files else _taught(config, tokenizer)
        size = build.shard_rows(config, count)
        return data.pipeline(source, size, config.seed, shard_index=index, shard_count=count)

    def evaluate(state: TrainState, workdir: Path) -> Mapping[str, Any]:
        params = state.nets["model"].params
        write_model(workdir / "model", shape, params, tokenizer, files)
        return {"figures": measure(model, params, tokenizer, config), "rows": [], "notes": {}}

    return Experiment(
        init,
        train_step,
        rows,
        evaluate,
        lambda state, workdir: None,
        lambda state, folder: write_model(folder, shape, state.nets["model"].params, tokenizer, files),
        begin=begin,
        sharding_rules=TENSOR_RULES,
    )


def decoder_of(config: ConfigDict, tokenizer: Tokenizer) -> DecoderConfig:
    """Of a decoder from scratch; ValueError for one that cannot be."""
    own = config.model
    return DecoderConfig(
        vocabulary=tokenizer.size,
        width=own.width,
        heads=own.heads,
        kv_heads=own.heads,
        head_size=own.head_size,
        layers=uniform_layers(own.layers, own.hidden, own.head_size),
        positions=own.positions,
        tied=True,
    ).check()


def answer_loss(
    model: DecoderLM, params: Params, batch: Batch, key: Key[Array, ""]
) -> tuple[Array, dict[str, Array]]:
    """Nats a token of the answers."""
    nats = token_nats(model.apply({"params": params}, batch["tokens"])[:, :-1], batch["tokens"][:, 1:])
    said = batch["said"][:, 1:]
    return jnp.sum(nats * said) / jnp.sum(said), {}


def measure(model: DecoderLM, params: Params, tokenizer: Tokenizer, config: ConfigDict) -> list[Figure]:
    """Perplexity of right answers to questions that were not trained on, in phrasings that were taught."""
    tokens, said = toytext.encode_pairs(tokenizer, toytext.draw_pairs(256, _HELD_OUT), config.data.length)
    found = perplexity(decoder_logits(model, params), tokens, mask=said)
    about = {"n_real": found.tokens, "split": "questions drawn anew", "seed": _HELD_OUT}
    return [Figure("answers/perplexity", found.value, low=found.low, high=found.high, **about)]


def write_model(
    folder: Path, shape: DecoderConfig, params: Params, tokenizer: Tokenizer, files: DecoderFiles | None
) -> None:
    """A checkpoint with its tokenizer, as Hugging Face has them, in the place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    fields = files.fields if files else stock_fields(shape, shape.layers[0].hidden)
    fields = {**fields, "bos_token_id": tokenizer.begin, "eos_token_id": tokenizer.end}
    form = "compact" if str(fields["model_type"]).startswith("compact_") else "padded"
    write_decoder(folder, shape, jax.tree.map(np.asarray, params), fields, form)
    tokenizer.save(folder)


def _taught(config: ConfigDict, tokenizer: Tokenizer) -> toytext.PairSource:
    pairs = toytext.draw_pairs(config.data.rows, config.seed)
    return toytext.PairSource(*toytext.encode_pairs(tokenizer, pairs, config.data.length))
