"""The program that compresses checkpoints: what it writes and says, broken off runs, and mistakes."""

import json
import math
import runpy
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from launching import ENVIRONMENT, ROOT

from diffax.data import load_tokenizer, train_tokenizer
from diffax.evaluation import read_result
from diffax.io import write_json
from diffax.io.decoder_config import stock_fields
from diffax.io.decoder_files import INDEX, DecoderFiles, read_decoder
from diffax.io.decoder_writer import write_decoder
from diffax.io.weights import read_tensors, write_tensors
from diffax.models.decoder_lm import DecoderConfig, DecoderLM, uniform_layers
from experiments import main  # noqa: F401  its flags are there before the program's own
from experiments.modegpt import compression, streaming
from experiments.modegpt.runner import Runner
from experiments.modegpt.texts import read_texts

PROGRAM = "experiments.modegpt.compress"
CONFIG = DecoderConfig(270, 16, 4, 2, 8, uniform_layers(3, 40, 8), positions=64)


def write_text(path, seed, words=1500):
    """Words that are drawn."""
    known = ["a", "small", "model", "was", "kept", "on", "the", "shelf", "and", "never", "said", "much."]
    random = np.random.default_rng(seed)
    path.write_text(" ".join(known[i] for i in random.geometric(0.2, words) % len(known)))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A checkpoint in one file with its tokenizer, and two texts."""
    home = tmp_path_factory.mktemp("modegpt")
    text = write_text(home / "text.txt", 0)
    write_text(home / "other.txt", 1, 500)
    (home / "short.txt").write_text("Too short.")
    tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    shapes = jax.eval_shape(DecoderLM(CONFIG).init, jax.random.key(0), tokens)["params"]
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: (0.4 * random.normal(size=leaf.shape)).astype(np.float32), shapes)
    fields = {**stock_fields(CONFIG, 40), "bos_token_id": 0}
    write_decoder(home / "model", CONFIG, params, fields, "padded", CONFIG)
    train_tokenizer([text.read_text()], 270).save(home / "model")
    return home


def words(home, to, **given):
    """The program's arguments."""
    given = {
        "model": home / "model", "calibration": home / "text.txt", "out": to, "context": 16, "sequences": 12,
        **given,
    }  # fmt: skip
    return [f"--{name}={value}" for name, value in given.items()]


def run(monkeypatch, *args):
    """The program, in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["compress", *args])
    known = set(flags.FLAGS)
    try:
        runpy.run_module(PROGRAM, run_name="__main__")
    except SystemExit as end:
        return end.code
    finally:
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()


def tensors_of(folder):
    """All of a checkpoint."""
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in read_tensors(file)[0].items()}


def bytes_of(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.safetensors"))}


def figures_of(folder):
    """Values by name, and all that is said of them."""
    result = read_result(folder / "result.json")
    return {figure.name: figure.value for figure in result.figures}, result


def about(folder, name):
    return next(figure for figure in figures_of(folder)[1].figures if figure.name == name)


# -- what is written ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(home, tmp_path_factory):
    """The usual run, measured on another text."""
    with pytest.MonkeyPatch.context() as patch:
        out = tmp_path_factory.mktemp("made") / "small"
        assert run(patch, *words(home, out, text=home / "other.txt")) == 0
    return out


def test_the_folder_is_whole_and_alone(home, made):
    assert [file.name for file in made.parent.iterdir()] == ["small"]
    names = {file.name for file in made.iterdir()}
    shards = {f"model-{n:05}-of-00004.safetensors" for n in range(1, 5)}
    assert names == shards | {
        "config.json", INDEX, "result.json", "modeling_compact.py", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    index = json.loads((made / INDEX).read_text())
    held = {k: file.name for file in made.glob("*.safetensors") for k in read_tensors(file)[0]}
    assert index["weight_map"] == held
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (made / name).read_bytes() == (home / "model" / name).read_bytes()


def test_the_result_says_what_is_on_disk(home, made):
    figures, result = figures_of(made)
    for when, folder in (("before", home / "model"), ("after", made)):
        tensors = {k: v for k, v in tensors_of(folder).items() if v.dtype.kind == "f"}
        assert figures[f"parameters_{when}"] == sum(v.size for v in tensors.values())
        maps = [v.size for k, v in tensors.items() if "_proj" in k]
        assert figures[f"layer_parameters_{when}"] == sum(maps)
        assert figures[f"bytes_{when}"] == sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    assert figures["removed"] == 1 - figures["layer_parameters_after"] / figures["layer_parameters_before"]
    assert abs(figures["removed"] - 0.3) < 0.02
    assert figures["seconds"] > 0
    assert 1e7 < figures["peak_host_bytes"] < 1e11
    layers, tensors = result.notes["layers"], tensors_of(made)
    for number, layer in enumerate(layers):
        at = f"model.layers.{number}."
        assert tensors[f"{at}mlp.up_proj.weight"].shape == (layer["hidden"], 16)
        assert tensors[f"{at}self_attn.q_proj.weight"].shape == (4 * layer["keys"], 16)
        assert tensors[f"{at}self_attn.v_proj.weight"].shape == (2 * layer["values"], 16)
        sizes = {k: v.size for k, v in tensors.items() if k.startswith(at) and "_proj" in k}
        assert layer["removed"] == pytest.approx(
            1 - sum(sizes.values()) / figures["layer_parameters_before"] * 3
        )
        assert 0 < layer["influence"] < 2


def test_the_figures_are_those_of_the_whole_models(home, made):
    """On all chunks of the text, the first token of each given."""
    ids = load_tokenizer(home / "model").encode((home / "other.txt").read_text())
    chunks = np.array(ids[: len(ids) // 16 * 16]).reshape(-1, 16)
    logs = []
    for folder in (home / "model", made):
        config, params = read_decoder(folder)
        logits = jax.jit(DecoderLM(config).apply)({"params": params}, jnp.asarray(chunks))
        logits = np.asarray(logits, np.float64)[:, :-1]
        logs.append(logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True)))
    figures, _ = figures_of(made)
    for name, log in zip(("perplexity_before", "perplexity_after"), logs, strict=True):
        said = np.take_along_axis(log, chunks[:, 1:, None], axis=-1)
        assert figures[name] == pytest.approx(math.exp(-said.mean()), rel=1e-4)
        assert about(made, name).n_real == chunks[:, 1:].size
        assert about(made, name).split == str(home / "other.txt")
    divergence = np.sum(np.exp(logs[0]) * (logs[0] - logs[1]), axis=-1).mean()
    assert figures["kl_divergence"] == pytest.approx(divergence, rel=1e-3)
    same = np.mean(logs[0].argmax(axis=-1) == logs[1].argmax(axis=-1))
    assert figures["agreement"] == pytest.approx(same, abs=2e-3)


def test_layer_by_layer_is_all_at_once(home, made):
    files = DecoderFiles(home / "model")
    texts = read_texts(files, [home / "text.txt"], [home / "other.txt"], 16, 12, 0)
    runner, settings = Runner(files), compression.Settings()
    gathered = compression.gather(runner, texts.calibration, streaming.METHODS["modegpt"].needs)
    config, params = read_decoder(made)
    parts = np.array(
        [[1 - a / b for a, b in zip(layer[:3], (40, 8, 8), strict=True)] for layer in config.layers]
    )
    again, expected = compression.compress(files, gathered, settings, parts)
    assert again == config
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_ratio_0_leaves_every_byte(home, tmp_path, monkeypatch):
    assert run(monkeypatch, *words(home, tmp_path / "out", ratio=0)) == 0
    ours, theirs = tensors_of(tmp_path / "out"), tensors_of(home / "model")
    assert ours.keys() == theirs.keys()
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in theirs)
    figures, _ = figures_of(tmp_path / "out")
    assert (figures["removed"], figures["agreement"]) == (0, 1)
    assert figures["perplexity_after"] == figures["perplexity_before"]
    assert about(tmp_path / "out", "perplexity_after").split == "held-out calibration text"


def test_padded_output_has_the_models_shapes_and_the_compact_ones_logits(home, made, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert run(monkeypatch, *words(home, out, text=home / "other.txt", export="padded")) == 0
    assert (out / "config.json").read_bytes() == (home / "model" / "config.json").read_bytes()
    ours, theirs = tensors_of(out), tensors_of(home / "model")
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    for name in ("perplexity_after", "kl_divergence"):
        assert figures_of(out)[0][name] == pytest.approx(figures_of(made)[0][name], rel=1e-5)


@pytest.mark.parametrize("method", ["slicegpt", "svd_llm"])
def test_other_methods_meet_the_ratio_and_can_be_read(home, tmp_path, monkeypatch, method):
    flags = {"method": method, "allocation": "uniform", "ratio": 0.25}
    assert run(monkeypatch, *words(home, tmp_path / "out", **flags)) == 0
    figures, _ = figures_of(tmp_path / "out")
    assert abs(figures["removed"] - 0.25) < 0.05  # a stream of 16 narrows in steps
    config, params = read_decoder(tmp_path / "out")
    assert figures["parameters_after"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert [bool(layer.stream) for layer in config.layers] == [method == "slicegpt"] * 3


def test_the_model_can_calibrate_itself_without_a_tokenizer(home, tmp_path, monkeypatch):
    bare = shutil.copytree(home / "model", tmp_path / "bare")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    flags = {"model": bare, "calibration": "self", "allocation": "uniform"}
    assert run(monkeypatch, *words(home, tmp_path / "out", **flags)) == 0
    _, result = figures_of(tmp_path / "out")
    assert result.notes["calibration_sequences"] == 12
    assert about(tmp_path / "out", "perplexity_after").split == "held-out calibration text"


# -- broken off ---------------------------------------------------------------------------------------------


def break_at(monkeypatch, nth):
    """Let the nth fact that is kept fail, before it is on disk."""
    keep, kept = streaming.Work.keep, []

    def failing(self, **facts):
        kept.append(facts)
        if len(kept) == nth:
            raise RuntimeError("broken off")
        keep(self, **facts)

    monkeypatch.setattr(streaming.Work, "keep", failing)


@pytest.mark.parametrize(
    ("flags", "nth"),
    [
        ({}, 3),
        pytest.param({}, 4, marks=pytest.mark.slow),
        ({"allocation": "influence"}, 3),
        ({"method": "slicegpt", "allocation": "uniform"}, 3),
    ],
)
def test_runs_that_are_broken_off_again_and_again_end_with_the_same_bytes(
    home, tmp_path, monkeypatch, capfd, flags, nth
):
    at_once, out = tmp_path / "at_once", tmp_path / "out"
    assert run(monkeypatch, *words(home, at_once, **flags)) == 0
    runs = 0
    while not out.exists():
        with monkeypatch.context() as patch:
            break_at(patch, nth)
            status = run(patch, *words(home, out, **flags))
        assert status == (0 if out.exists() else 1)
        assert out.exists() or (tmp_path / ".out.work" / "work.json").exists()
        runs += 1
    assert runs >= 3
    assert "broken off" in capfd.readouterr().err
    assert bytes_of(out) == bytes_of(at_once)
    assert figures_of(out)[1].notes["layers"] == figures_of(at_once)[1].notes["layers"]
    assert {file.name for file in tmp_path.iterdir()} == {"at_once", "out"}


KILLED = """
import os, runpy, signal, sys
from experiments.modegpt import streaming
keep, count = streaming.Work.keep, [0]
def killing(self, **facts):
    keep(self, **facts)
    count[0] += "made" in facts
    if count[0] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
streaming.Work.keep = killing
runpy.run_module("experiments.modegpt.compress", run_name="__main__")
"""


def test_a_killed_run_goes_on(home, made, tmp_path, monkeypatch):
    out, environment = tmp_path / "out", {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    args = words(home, out, text=home / "other.txt")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *args], cwd=ROOT, env=environment, capture_output=True, timeout=300
    )
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    facts = json.loads((tmp_path / ".out.work" / "work.json").read_text())
    assert facts["made"] == 2
    calls, layer = [], Runner.layer
    monkeypatch.setattr(streaming.Trials, "measure", None)  # not again
    monkeypatch.setattr(Runner, "layer", lambda self, n, *rest: calls.append(n) or layer(self, n, *rest))
    assert run(monkeypatch, *args) == 0
    assert calls[0] == 2, "the layers before are done"
    assert bytes_of(out) == bytes_of(made)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_another_run_does_not_go_on_with_ones_work(home, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        break_at(patch, 5)
        assert run(patch, *words(home, out, allocation="uniform")) == 1
    assert run(monkeypatch, *words(home, out, allocation="uniform", ratio=0)) == 0
    theirs = tensors_of(home / "model")
    assert all(value.tobytes() == theirs[name].tobytes() for name, value in tensors_of(out).items())


def test_overwrite_replaces_once_all_is_done(home, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.txt").write_text("old")
    args = words(home, out, allocation="uniform", overwrite="true")
    with monkeypatch.context() as patch:
        break_at(patch, 5)
        assert run(patch, *args) == 1
    assert (out / "old.txt").exists()
    assert run(monkeypatch, *args) == 0
    assert not (out / "old.txt").exists()
    assert read_decoder(out)[0].layers != CONFIG.layers


# -- mistakes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def damaged(home, tmp_path_factory):
    """Checkpoints with a fault, by name."""
    folder = tmp_path_factory.mktemp("damaged")
    nan = shutil.copytree(home / "model", folder / "nan")
    tensors = tensors_of(nan)
    tensors["model.layers.2.mlp.down_proj.weight"][3, 4] = np.nan
    write_tensors(nan / "model.safetensors", tensors, {"format": "pt"})
    shards = shutil.copytree(home / "model", folder / "shards")
    places = {name: f"model-{1 + ('layers.1' in name):05}-of-00002.safetensors" for name in tensors}
    write_json(shards / INDEX, {"metadata": {}, "weight_map": places})
    write_tensors(
        shards / "model-00001-of-00002.safetensors",
        {name: value for name, value in tensors_of(home / "model").items() if "layers.1" not in name},
    )
    return folder


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"ratio": 1.0}, "ratio: got 1.0, allowed: a number in [0, 1)"),
        ({"ratio": -0.1}, "ratio: got -0.1"),
        ({"ratio": "nan"}, "ratio: got nan"),
        ({"ratio": 0.8}, "ratio: got 0.8, allowed: at most 0.75"),
        ({"ratio": "some"}, "--ratio=some"),
        ({"method": "magic"}, "--method=magic"),
        ({"allocation": "fair"}, "--allocation=fair"),
        ({"epsilon": 0}, "epsilon: got 0.0"),
        ({"ridge": 0}, "ridge: got 0.0"),
        ({"cap": 1.5}, "cap: got 1.5"),
        ({"round_to": 0}, "round_to: got 0"),
        ({"batch": 0}, "--batch: got 0"),
        ({"sequences": 0}, "--sequences: got 0"),
        ({"module_weights": "1,2"}, "module_weights: got (1.0, 2.0), allowed: three numbers"),
        ({"module_weights": "a,b,c"}, "module_weights: got ['a', 'b', 'c']"),
        ({"method": "slicegpt", "export": "padded"}, "--export: got 'padded', allowed: compact"),
        ({"out": "HOME/model"}, "--out: got"),
        ({"out": "HOME/model", "overwrite": "true"}, "another folder than --model"),
        ({"out": "TMP/taken"}, "a folder that does not exist yet, or --overwrite"),
        ({"out": ""}, "--out: got ''"),
        ({"model": ""}, "--model: got ''"),
        ({"model": "TMP/nothing"}, "a folder with a config.json"),
        ({"model": "DAMAGED/shards"}, "model-00002-of-00002.safetensors"),
        ({"model": "DAMAGED/nan"}, "model.layers.2.mlp.down_proj.weight: got 'NaN or infinity'"),
        ({"model": "DAMAGED/nan", "allocation": "uniform"}, "down_proj.weight: got 'NaN or infinity'"),
        ({"calibration": ""}, "--calibration: got []"),
        ({"calibration": "HOME/none.txt"}, "none.txt"),
        ({"calibration": "HOME/short.txt"}, "short.txt: tokens: got"),
        ({"text": "HOME/short.txt"}, "short.txt: tokens: got"),
        ({"context": 65}, "context: got 65, allowed: 2 .. 64"),
        ({"context": 1}, "context: got 1"),
        ({"sparsity": 0.3}, "sparsity"),
    ],
)
def test_mistakes_end_with_one_line_and_change_nothing(
    home, damaged, tmp_path, monkeypatch, capfd, flags, message
):
    taken = tmp_path / "taken"
    taken.mkdir()
    before = bytes_of(home / "model")
    places = {"HOME": home, "DAMAGED": damaged, "TMP": tmp_path}
    flags = {name: str(value) for name, value in flags.items()}
    for word, place in places.items():
        flags = {name: value.replace(word, str(place)) for name, value in flags.items()}
    assert run(monkeypatch, *words(home, tmp_path / "out", **flags)) == 2
    error = capfd.readouterr().err.strip().splitlines()
    if "nan" not in flags.get("model", ""):  # which is only seen where it is read
        assert len(error) == 1
    assert not [line for line in error[:-1] if not line.startswith("layers ")]
    assert error[-1].startswith("error: ")
    assert message in error[-1]
    assert list(tmp_path.iterdir()) == [taken]
    assert not list(taken.iterdir())
    assert bytes_of(home / "model") == before
    assert not [file.name for file in home.iterdir() if file.name.startswith(".")]
