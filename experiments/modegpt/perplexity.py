"""Perplexity of a checkpoint on text, how far it is from another, how well it answers, how fast it is.

    python -m experiments.modegpt.perplexity --model=DIR --text=FILE
    python -m experiments.modegpt.perplexity --model=SMALL --reference=DENSE --text=FILE
    python -m experiments.modegpt.perplexity --model=DIR --choices=arc:arc_easy.jsonl,piqa:piqa.jsonl --speed

Files are joined by empty lines and cut into chunks of ``--context`` tokens, whose first is given and whose
tail is dropped; with ``--documents`` every document (an empty line ends one) is measured on its own, after
the token that texts begin with. ``--out`` writes the figures as JSON.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from diffax import checks
from diffax.data.text import read_documents
from diffax.data.tokenizer import Tokenizer, load_tokenizer
from diffax.evaluation import Figure, write_result
from diffax.evaluation.choices import evaluate_choices, read_items
from diffax.evaluation.text import decoder_logits, kl_divergence, perplexity
from diffax.io.decoder_files import DecoderFiles
from diffax.models.decoder_lm import DecoderLM
from experiments import main
from experiments.devices import environment
from experiments.modegpt.speed import speed
from experiments.modegpt.texts import check_context, chunks_of
from experiments.progress import say

KINDS = ("arc", "piqa", "winogrande", "hellaswag")


def program(argv: Sequence[str]) -> None:
    """Measure what the flags name."""
    values = flags.FLAGS.flag_values_dict()
    checks.require(bool(values["model"]), "--model", values["model"], "a folder with a checkpoint")
    asked = bool(values["text"] or values["choices"] or values["speed"])
    checks.require(asked, "--text", values["text"], "text files, or --choices, or --speed")
    checks.require(values["batch"] >= 1, "--batch", values["batch"], "an integer >= 1")
    main.start_jax()
    files = DecoderFiles(values["model"])
    logits = load(files)
    figures = text_figures(files, logits, values) if values["text"] else []
    for kind, file in choice_files(values["choices"]):
        figures += choice_figures(files, logits, kind, file, values["batch"])
    if values["speed"]:
        figures += [Figure(name, value) for name, value in speed(files, values["batch"]).items()]
    figures.append(Figure("parameters", files.parameters))
    for figure in figures:
        bounds = "" if figure.low is None else f" [{figure.low:.5g}, {figure.high:.5g}]"
        say(f"{figure.name} {figure.value:.6g}{bounds}", sys.stdout)
    if values["out"]:
        notes = {
            name: values[name] for name in ("model", "text", "reference", "choices", "batch", "documents")
        }
        context = check_context(files, values["context"])
        write_result(values["out"], figures, {**notes, "context": context, **environment()})


def load(files: DecoderFiles) -> Any:
    """A checkpoint's logits."""
    return decoder_logits(DecoderLM(files.config), jax.device_put(files.params()))


def text_figures(files: DecoderFiles, logits: Any, values: dict[str, Any]) -> list[Figure]:
    """Perplexity, and distances to the reference."""
    tokenizer = load_tokenizer(files.folder)
    texts = read_texts(files, tokenizer, values)
    source = ", ".join(values["text"])
    found = perplexity(logits, texts, batch_size=values["batch"])
    about: dict[str, Any] = {"n_real": found.tokens, "split": source}
    figures = [Figure("perplexity", found.value, low=found.low, high=found.high, **about)]
    if values["reference"]:
        other = load(DecoderFiles(values["reference"]))
        dense = perplexity(other, texts, batch_size=values["batch"])
        apart = kl_divergence(other, logits, texts, batch_size=values["batch"])
        figures += [
            Figure("reference/perplexity", dense.value, low=dense.low, high=dense.high, **about),
            Figure("kl_divergence", apart.nats, low=apart.low, high=apart.high, **about),
            Figure("agreement", apart.agreement, **about),
        ]
    return figures


def read_texts(files: DecoderFiles, tokenizer: Tokenizer, values: dict[str, Any]) -> Any:
    """Chunks, or documents with their first token, cut at the context."""
    context = check_context(files, values["context"])
    if not values["documents"]:
        return chunks_of(tokenizer, values["text"], context)
    documents = read_documents(values["text"], separator="\n\n")
    texts = [tokenizer.encode(document)[:context] for document in documents]
    return [np.asarray(text) for text in texts if len(text) > 1]


def choice_files(asked: Sequence[str]) -> list[tuple[str, Path]]:
    """Kind and file of each."""
    found = []
    for each in asked:
        kind, _, file = each.partition(":")
        checks.require_one_of("--choices", kind, KINDS)
        checks.require(bool(file), "--choices", each, "KIND:FILE")
        found.append((kind, Path(file)))
    return found


def choice_figures(files: DecoderFiles, logits: Any, kind: str, file: Path, batch: int) -> list[Figure]:
    """Accuracies as the evaluation harness names them."""
    items = read_items(file, kind)
    positions = files.config.positions
    found = evaluate_choices(
        logits, load_tokenizer(files.folder), items, positions=positions, batch_size=batch
    )
    names = {"acc": found.accuracy, "acc_norm": found.normalised, "acc_bytes": found.by_bytes}
    about: dict[str, Any] = {"n_real": found.n, "split": str(file)}
    return [Figure(f"{kind}/{k}", v.mean, low=v.low, high=v.high, **about) for k, v in names.items()]


if __name__ == "__main__":
    flags.DEFINE_string("model", "", "folder of a checkpoint")
    flags.DEFINE_string("reference", "", "folder of another, such as the one it was made of")
    flags.DEFINE_list("text", [], "text files: .txt, .md, .jsonl, .parquet")
    flags.DEFINE_list("choices", [], "KIND:FILE of questions in JSONL; arc, piqa, winogrande, hellaswag")
    flags.DEFINE_bool("documents", False, "every document by itself")
    flags.DEFINE_bool("speed", False, "tokens a second too")
    flags.DEFINE_integer("context", 0, "tokens of a chunk; 0: 2048, or the model's positions")
    flags.DEFINE_integer("batch", 8, "texts at a time")
    flags.DEFINE_string("out", "", "file for the figures, as JSON")
    sys.exit(main.run(program))
