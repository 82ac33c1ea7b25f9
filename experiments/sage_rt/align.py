"""Training on pairs of answers: the loss by its name, and the rows of an export as tokens."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from ml_collections import ConfigDict

from diffax.checks import require
from diffax.data.source import Item, SourceSpec
from diffax.data.text import read_rows
from diffax.data.tokenizer import Tokenizer
from diffax.losses.preference import dpo_loss, sequence_log_prob, simpo_loss
from diffax.models.decoder_lm import DecoderLM
from diffax.training.step import Batch
from diffax.types import Params
from experiments.sage_rt import toytext
from experiments.sage_rt.chat_model import chat_template

LOSSES = ("simpo", "dpo")
SIDES = ("chosen", "rejected")
LossFn = Callable[[Params, Batch, Key[Array, ""]], tuple[Array, dict[str, Array]]]


def make_loss(model: DecoderLM, config: Mapping[str, Any], reference: Params | None) -> LossFn:
    """The mean loss of a batch of pairs; ``reference``: the parameters that DPO compares with."""

    def loss(params: Params, batch: Batch, key: Key[Array, ""]) -> tuple[Array, dict[str, Array]]:
        (chosen, long), (rejected, short) = (_said(model, params, batch, side) for side in SIDES)
        if config["loss"] == "simpo":
            options = {"beta": config["beta"], "gamma": config["gamma"]}
            each = simpo_loss(chosen, rejected, long, short, **options)
        else:
            assert reference is not None
            fixed = (_said(model, jax.lax.stop_gradient(reference), batch, side)[0] for side in SIDES)
            each = dpo_loss(chosen, rejected, *fixed, beta=config["beta"])
        imitation = -jnp.mean(chosen / long)
        right = jnp.mean(chosen / long > rejected / short)
        return jnp.mean(each) + config["imitation"] * imitation, {"preferred": right, "nats": imitation}

    return loss


def open_pairs(config: ConfigDict, tokenizer: Tokenizer) -> "PreferenceSource":
    """Rows ``prompt, chosen, rejected`` of an export. Raises ValueError naming the file and the field."""
    file = Path(config.align.pairs) / "train.jsonl"
    require(file.is_file(), "config.align.pairs", config.align.pairs, "a folder that export wrote")
    rows = read_rows(file)
    for number, row in enumerate(rows):
        for name in ("prompt", *SIDES):
            fits = isinstance(row.get(name), str)
            require(fits, f"{file}: row {number}: {name}", type(row.get(name)).__name__, "a text")
    return PreferenceSource(rows, tokenizer, config.data.length)


class PreferenceSource:
    """Rows of tokens ``chosen``, ``rejected`` and, of each, which are the answer's (``chosen_said``, ...)."""

    def __init__(self, rows: list[dict[str, Any]], tokenizer: Tokenizer, length: int) -> None:
        template = chat_template(tokenizer.settings)
        self._rows: dict[str, np.ndarray] = {}
        for side in SIDES:
            pairs = [
                toytext.Pair(template([{"role": "user", "content": row["prompt"]}]), row[side])
                for row in rows
            ]
            self._rows[side], self._rows[f"{side}_said"] = toytext.encode_pairs(tokenizer, pairs, length)
        kinds = {name: value.dtype for name, value in self._rows.items()}
        self.spec = SourceSpec(dict.fromkeys(kinds, (length,)), kinds)

    def __len__(self) -> int:
        return len(self._rows["chosen"])

    def __getitem__(self, index: int) -> Item:
        return {name: value[index] for name, value in self._rows.items()}


def _said(model: DecoderLM, params: Params, batch: Batch, side: str) -> tuple[Array, Array]:
    """Log-probability and length of an answer, its end included."""
    logits = model.apply({"params": params}, batch[side])
    return sequence_log_prob(logits[:, :-1], batch[side][:, 1:], batch[f"{side}_said"][:, 1:])
