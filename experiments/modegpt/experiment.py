"""Composition: a decoder trained on text, or a checkpoint trained further, then compressed in every way.

With ``config.checkpoint`` training goes on from a folder, such as a compressed one, all weights or, with
``config.lora.rank``, low-rank changes of the layers' matrices alone.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffax import checks, data
from diffax.data.text import TokenSource
from diffax.evaluation.text import token_nats
from diffax.io.decoder_files import DecoderFiles
from diffax.models import TENSOR_RULES
from diffax.models.decoder_lm import DecoderConfig, DecoderLM, uniform_layers
from diffax.models.lora import init_lora, merge_lora
from diffax.training import TrainState, init_net, make_optimizer, make_train_step
from diffax.training.step import Batch
from diffax.types import Params
from experiments import build
from experiments.base import Experiment
from experiments.modegpt import evaluate as evaluation
from experiments.modegpt.corpus import open_corpus

_LAYERS = r"^layers_\d+/.*/kernel$"


def make_experiment(config: ConfigDict) -> Experiment:
    """Check the configuration by building everything it names, then hand out the parts."""
    files = DecoderFiles(config.checkpoint) if config.checkpoint else None
    checks.require(config.lora.rank >= 0, "config.lora.rank", config.lora.rank, "an integer >= 0")
    fits = bool(config.checkpoint) or not config.lora.rank
    checks.require(fits, "config.lora.rank", config.lora.rank, "0 without config.checkpoint")
    corpus = functools.cache(lambda: open_corpus(config.data, files.folder if files else None))
    shape = files.config if files else decoder_of(config)
    checks.require(
        config.data.context <= shape.positions,
        "config.data.context",
        config.data.context,
        f"at most {shape.positions}, the model's positions",
    )
    model = DecoderLM(shape, jnp.dtype(config.model.dtype))
    optimizer = make_optimizer(build.make_optimizer_config(config.train.optimizer), config.train.num_steps)

    def init(key: Key[Array, ""], known: Params | None = None) -> TrainState:
        init_key, run_key = jax.random.split(key)
        tokens = jnp.zeros((1, 2), jnp.int32)
        params = known or model.init(init_key, tokens)["params"]
        if not config.lora.rank:
            return TrainState.create(run_key, {"model": init_net(params, optimizer, {})})
        factors = init_lora(init_key, params, config.lora.rank, _LAYERS)
        return TrainState.create(run_key, {"model": init_net(factors, optimizer, {})}, {"model": params})

    def begin(workdir: Path) -> Any:
        known = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), files.params()) if files else None
        return functools.partial(init, known=known)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        loss = functools.partial(next_token_loss, model, whole_params(config, state.frozen))
        step = make_train_step(loss, optimizer, {}, accumulate=config.train.accumulate)
        return step(state, batch)

    def rows(index: int, count: int) -> data.Pipeline:
        size, source = build.shard_rows(config, count), TokenSource(corpus().train)
        return data.pipeline(source, size, config.seed, shard_index=index, shard_count=count)

    def trained(state: TrainState) -> evaluation.Trained:
        params = whole_params(config, state.frozen)(state.nets["model"].params)
        return evaluation.Trained(config, shape, jax.tree.map(np.asarray, params), corpus(), files)

    return Experiment(
        init,
        train_step,
        rows,
        lambda state, workdir: evaluation.evaluate(trained(state), workdir),
        lambda state, workdir: evaluation.draw(trained(state), workdir),
        lambda state, workdir: evaluation.export(trained(state), workdir),
        begin=begin,
        sharding_rules=TENSOR_RULES,
    )


def decoder_of(config: ConfigDict) -> DecoderConfig:
    """The configuration of a decoder from scratch; ValueError for one that cannot be."""
    own = config.model
    return DecoderConfig(
        vocabulary=config.data.vocabulary,
        width=own.width,
        heads=own.heads,
        kv_heads=own.kv_heads,
        head_size=own.head_size,
        layers=uniform_layers(own.layers, own.hidden, own.head_size),
        positions=2 * config.data.context,
        tied=own.tied,
    ).check()


def whole_params(config: ConfigDict, frozen: Mapping[str, Params]) -> Callable[[Params], Params]:
    """All parameters from those that are trained."""
    if "model" not in frozen:
        return lambda params: params
    return lambda factors: merge_lora(frozen["model"], factors, config.lora.scale)


def next_token_loss(
    model: DecoderLM, whole: Callable[[Params], Params], params: Params, batch: Batch, key: Key[Array, ""]
) -> tuple[Array, dict[str, Array]]:
    """Nats a token."""
    logits = model.apply({"params": whole(params)}, batch["tokens"])
    return jnp.mean(token_nats(logits[:, :-1], batch["tokens"][:, 1:])), {}
