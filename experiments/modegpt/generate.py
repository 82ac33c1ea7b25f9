"""Text from a checkpoint.

    python -m experiments.modegpt.generate --model=DIR --prompt="Once upon a time" --steps=200
    python -m experiments.modegpt.generate --model=DIR --temperature=0.8 --top_p=0.9 --n=4 --seed=1

Without ``--temperature`` the likeliest token follows; with it texts are drawn, each by its own key.
"""

import sys
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from absl import flags

from diffax import checks
from diffax.data.tokenizer import load_tokenizer
from diffax.io.decoder_files import DecoderFiles
from diffax.models.decoder_lm import DecoderLM
from diffax.models.generation import Choice, generate
from experiments import main
from experiments.progress import say


def program(argv: Sequence[str]) -> None:
    """Write what follows the prompt."""
    values = flags.FLAGS.flag_values_dict()
    checks.require(bool(values["model"]), "--model", values["model"], "a folder with a checkpoint")
    checks.require(values["n"] >= 1, "--n", values["n"], "an integer >= 1")
    choice = Choice(values["temperature"], values["top_k"], values["top_p"]).check()
    main.start_jax()
    files = DecoderFiles(values["model"])
    tokenizer = load_tokenizer(files.folder)
    prompt = tokenizer.encode(values["prompt"])
    checks.require(bool(prompt), "--prompt", values["prompt"], "a text of a token or more")
    room = files.config.positions - len(prompt)
    steps = values["steps"] or room
    checks.require(
        1 <= steps <= room, "--steps", steps, f"1 .. {room}, after a prompt of {len(prompt)} tokens"
    )
    end = -1 if tokenizer.end is None else tokenizer.end
    write = jax.jit(partial(generate, DecoderLM(files.config), steps=steps, choice=choice, end=end))
    keys = jax.random.split(jax.random.key(values["seed"]), values["n"])
    rows = write(files.params(), jnp.tile(jnp.asarray([prompt], jnp.int32), (values["n"], 1)), keys=keys)
    for row in rows.tolist():
        said = row[: row.index(end)] if end in row else row
        say(tokenizer.decode([*prompt, *said]), sys.stdout)


if __name__ == "__main__":
    flags.DEFINE_string("model", "", "folder of a checkpoint")
    flags.DEFINE_string("prompt", "", "what the text begins with")
    flags.DEFINE_integer("steps", 0, "tokens to write; 0: as many as the model has positions for")
    flags.DEFINE_float("temperature", 0.0, "0: the likeliest token")
    flags.DEFINE_integer("top_k", 0, "draw from so many of the likeliest; 0: all")
    flags.DEFINE_float("top_p", 1.0, "draw from the fewest whose probabilities reach this")
    flags.DEFINE_integer("n", 1, "texts")
    flags.DEFINE_integer("seed", 0, "of draws")
    sys.exit(main.run(program))
