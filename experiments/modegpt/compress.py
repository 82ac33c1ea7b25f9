"""A smaller checkpoint from a checkpoint, without training.

    python -m experiments.modegpt.compress --model=DIR --calibration=FILES --ratio=0.3 --out=DIR

``--model`` is a folder as Hugging Face has them (Llama or OPT), ``--calibration`` text files (.txt, .md,
.jsonl, .parquet), or "self" for text that the model draws. ``--export=compact`` writes smaller matrices,
which this library reads, and transformers with ``trust_remote_code=True``; ``padded`` puts zeros back, for
every program that knows the architecture. ``result.json`` in the output says what each layer has left, and
perplexity before and after. A run that is broken off goes on where it was when the command is given again.
"""

import resource
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from diffax import checks
from diffax.evaluation import Figure, write_result
from diffax.io.decoder_files import DecoderFiles
from experiments import main
from experiments.devices import environment
from experiments.modegpt.allocation import layer_parameters
from experiments.modegpt.compression import ALLOCATIONS, Settings, open_whole
from experiments.modegpt.method import Options
from experiments.modegpt.methods import METHODS
from experiments.modegpt.runner import Runner
from experiments.modegpt.scores import Scores, compare
from experiments.modegpt.streaming import Work, compress_files, fingerprint
from experiments.modegpt.texts import Texts, check_context, read_texts
from experiments.progress import say

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def program(argv: Sequence[str]) -> None:
    """Compress what the flags name."""
    values = flags.FLAGS.flag_values_dict()
    settings, out = settings_of(values), Path(values["out"] or "")
    check_paths(values)
    main.start_jax()
    files = open_whole(values["model"])
    runner = Runner(files, values["batch"], DTYPES[values["dtype"]])
    context = check_context(files, values["context"])
    texts = read_texts(
        files, values["calibration"], values["text"], context, values["sequences"], values["seed"]
    )
    begun = time.monotonic()
    mark = fingerprint(files, texts.calibration, settings, values["dtype"], values["batch"], values["export"])
    work = Work(out.parent / f".{out.name}.work", mark)
    try:
        made = compress_files(runner, texts.calibration, settings, work, values["export"])
    except ValueError:  # input that no run would get further with
        shutil.rmtree(work.folder)
        raise
    small = Runner(DecoderFiles(made), values["batch"], runner.dtype)
    seconds = time.monotonic() - begun
    scores = compare(runner, small, texts.held_out)
    write(made, runner, small, work, settings, texts, scores, seconds)
    if out.exists():
        shutil.rmtree(out)
    made.rename(out)
    shutil.rmtree(work.folder)
    say(f"wrote {out}: perplexity {scores.before:.4g} -> {scores.after:.4g} on {texts.source}", sys.stdout)


def settings_of(values: dict[str, Any]) -> Settings:
    """What is asked for; ValueError naming the flag that is out of range."""
    try:
        weights = tuple(float(weight) for weight in values["module_weights"])
    except ValueError:
        allowed = "three numbers, as in 1,1,1"
        raise ValueError(f"module_weights: got {values['module_weights']}, allowed: {allowed}") from None
    options = Options(values["ridge"], values["leverage"], seed=values["seed"])
    if values["paper"]:
        options = options._replace(centred=False, joint=False, affine=False)
    fields = {name: values[name] for name in ("method", "ratio", "allocation", "epsilon", "cap")}
    return Settings(**fields, weights=weights, multiple=values["round_to"], options=options).check()


def check_paths(values: dict[str, Any]) -> None:
    """That there is something to read, and nothing of value where the output goes."""
    checks.require(bool(values["model"]), "--model", values["model"], "a folder with a checkpoint")
    checks.require(bool(values["out"]), "--out", values["out"], "a folder to write")
    checks.require(bool(values["calibration"]), "--calibration", values["calibration"], 'files, or "self"')
    out = Path(values["out"])
    free = values["overwrite"] or not out.exists()
    checks.require(free, "--out", str(out), "a folder that does not exist yet, or --overwrite")
    same = out.resolve() == Path(values["model"]).resolve()
    checks.require(not same, "--out", str(out), "another folder than --model")
    fits = METHODS[values["method"]].turns <= (values["export"] == "compact")
    checks.require(fits, "--export", values["export"], f"compact, with --method={values['method']}")
    for name in ("sequences", "batch"):
        checks.require(values[name] >= 1, f"--{name}", values[name], "an integer >= 1")


def write(
    folder: Path,
    dense: Runner,
    small: Runner,
    work: Work,
    settings: Settings,
    texts: Texts,
    scores: Scores,
    seconds: float,
) -> None:
    """``result.json``."""
    before, after = (layer_parameters(r.config, r.config.layers) for r in (dense, small))
    about = {"n_real": scores.tokens, "split": texts.source, "seed": settings.options.seed}
    figures = [
        Figure("perplexity_before", scores.before, **about),
        Figure("perplexity_after", scores.after, **about),
        Figure("kl_divergence", scores.kl, **about),
        Figure("agreement", scores.agreement, **about),
        Figure("parameters_before", dense.files.parameters),
        Figure("parameters_after", small.files.parameters),
        Figure("layer_parameters_before", before),
        Figure("layer_parameters_after", after),
        Figure("removed", 1 - after / before),
        Figure("bytes_before", stored_bytes(dense.files.folder)),
        Figure("bytes_after", stored_bytes(folder)),
        Figure("seconds", seconds),
        Figure("peak_host_bytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
    ]
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    figures += [Figure("peak_device_bytes", peak)] if peak else []
    figures = [figure._replace(value=float(figure.value)) for figure in figures]
    notes = {
        "settings": {
            **settings._asdict(),
            "options": settings.options._asdict(),
        },
        "context": texts.calibration.shape[1],
        "calibration_sequences": len(texts.calibration),
        "layers": layer_table(dense, small, work),
        **environment(),
    }
    write_result(folder / "result.json", figures, notes)


def layer_table(dense: Runner, small: Runner, work: Work) -> list[dict[str, Any]]:
    """What each layer shows and has left."""
    rows = []
    for number, (old, new) in enumerate(zip(dense.config.layers, small.config.layers, strict=True)):
        before, after = layer_parameters(dense.config, [old]), layer_parameters(small.config, [new])
        rows.append(
            {
                "influence": work.facts["influence"][str(number)],
                "removed": 1 - after / before,
                "hidden": new.hidden,
                "keys": new.keys,
                "values": new.values,
                "ranks": dict(new.ranks),
                "stream": list(new.stream),
            }
        )
    return rows


def stored_bytes(folder: Path) -> int:
    """Of all tensors' files."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


if __name__ == "__main__":
    flags.DEFINE_string("model", "", "folder of a checkpoint, as Hugging Face has them")
    flags.DEFINE_list("calibration", [], 'text files to calibrate on, or "self"')
    flags.DEFINE_list("text", [], "text files to measure perplexity on; by default a tenth of the other")
    flags.DEFINE_float("ratio", 0.3, "share of the layers' parameters to remove")
    flags.DEFINE_string("out", "", "folder to write")
    flags.DEFINE_enum("method", "modegpt", list(METHODS), "how")
    flags.DEFINE_enum("export", "compact", ["compact", "padded"], "smaller matrices, or zeros put back")
    flags.DEFINE_enum("allocation", "sensitivity", ALLOCATIONS, "of the ratio over layers and their parts")
    flags.DEFINE_float("epsilon", 0.1, "how little layers' shares follow their influence")
    flags.DEFINE_float("cap", 0.8, "the most that a part of a layer loses")
    flags.DEFINE_list(
        "module_weights", ["1", "1", "1"], "shares of hidden units, queries/keys, values/outputs"
    )
    flags.DEFINE_integer("round_to", 1, "multiple of which widths are")
    flags.DEFINE_float("ridge", 1e-2, "of reconstructions, relative to the units' mean energy")
    flags.DEFINE_float("leverage", 1e-2, "ridge of the units' scores")
    flags.DEFINE_bool("paper", False, "the paper's own variant: keys not centred, values alone, no means")
    flags.DEFINE_integer("sequences", 128, "chunks to calibrate on")
    flags.DEFINE_integer("context", 0, "tokens of a chunk; 0: 2048, or the model's positions")
    flags.DEFINE_integer("batch", 8, "chunks at a time")
    flags.DEFINE_enum("dtype", "float32", list(DTYPES), "of the forward computation")
    flags.DEFINE_integer("seed", 0, "of draws")
    flags.DEFINE_bool("overwrite", False, "replace --out")
    sys.exit(main.run(program))
