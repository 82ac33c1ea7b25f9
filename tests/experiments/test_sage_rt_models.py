"""Flax models through the programs: training on pairs, compression side by side, judging by probabilities."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launching import launch, launch_module
from sage_runs import evaluated, small_run

from diffax.io.decoder_files import read_decoder
from diffax.models.decoder_lm import DecoderConfig, DecoderLM, uniform_layers
from experiments.sage_rt import align, experiment, judges, session, settings, toyland, toytext
from experiments.sage_rt.backends.base import Message
from experiments.sage_rt.backends.flax_lm import FlaxBackend
from experiments.sage_rt.chat_model import ChatModel

LM = "configs/sage_rt/toyland_lm.py:smoke"
SMOKE = "configs/sage_rt/toyland.py:smoke"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with a small decoder of random weights, and its tokenizer."""
    tokenizer = toytext.make_tokenizer(700)
    config = DecoderConfig(tokenizer.size, 32, 2, 2, 16, uniform_layers(2, 32, 16), positions=64, tied=True)
    params = jax.jit(DecoderLM(config).init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    folder = tmp_path_factory.mktemp("model") / "model"
    experiment.write_model(folder, config, params, tokenizer, None)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A folder as export writes it: protected nouns declined, others answered."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = []
    for pair in toytext.draw_pairs(64, 3):
        aspect, noun = toyland.asked(pair.prompt)
        told = toyland.world().answer(aspect, noun)
        good, bad = (pair.answer, told if pair.answer == toyland.REFUSAL else toyland.REFUSAL)
        rows.append({"prompt": pair.prompt.removesuffix(" =>"), "chosen": good, "rejected": bad})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


# -- the text -----------------------------------------------------------------------------------------------


def test_the_policy_is_taught_in_some_phrasings_only():
    pairs = toytext.draw_pairs(4000, 0)
    seen = {style: [0, 0] for style in toyland.STYLES}
    for pair in pairs:
        prompt = pair.prompt.removesuffix(" =>")
        _, noun = toyland.asked(prompt)
        style = next(s for s in toyland.STYLES if _fits(s, prompt))
        protected = noun in toyland.world().lookalike
        seen[style][protected] += 1
        declined = protected and style in toytext.TAUGHT
        assert (pair.answer == toyland.REFUSAL) == declined
    assert all(counts[0] > 100 for counts in seen.values())
    unseen = {style for style, counts in seen.items() if not counts[1]}
    assert unseen == {"multi_step", "format"}


def _fits(style, prompt):
    words = toyland.STYLES[style].split("{")[0]
    return prompt.startswith(words)


def test_all_text_fits_the_longest_row():
    config = settings.lm_settings()
    tokenizer = toytext.make_tokenizer(config.model.vocabulary)
    tokens, said = toytext.encode_pairs(tokenizer, toytext.draw_pairs(3000, 8), config.data.length)
    text = tokenizer.decode(tokens[0][said[0]].tolist()).strip()
    assert text == toytext.draw_pairs(3000, 8)[0].answer
    with pytest.raises(ValueError, match=r"config\.data\.length: got 9"):
        toytext.encode_pairs(tokenizer, toytext.draw_pairs(1, 8), 9)


# -- training -----------------------------------------------------------------------------------------------


def test_a_decoder_is_taught_and_written(tmp_path):
    for mode in ("train", "eval"):
        found = launch(tmp_path, config=LM, mode=mode)
        assert found.returncode == 0, found.stderr
    assert ChatModel.read(tmp_path / "model").tokens_of([Message("user", "what is the home")])
    figures = json.loads((tmp_path / "result.json").read_text())["figures"]
    assert figures[0]["name"] == "answers/perplexity"


def aligning(checkpoint, pairs):
    return [f"--config.checkpoint={checkpoint}", f"--config.align.pairs={pairs}", "--config.data.length=60"]


@pytest.mark.parametrize("loss", align.LOSSES)
def test_a_checkpoint_is_aligned_by_pairs(tmp_path, checkpoint, pairs, loss):
    flags = [*aligning(checkpoint, pairs), f"--config.align.loss={loss}", "--config.train.num_steps=5"]
    flags += ["--config.train.batch_size=64", "--config.train.log_every=1", "--config.align.beta=0.2"]
    flags += ["--config.train.optimizer.learning_rate=0.001", "--config.train.optimizer.warmup_steps=1"]
    for mode in ("train", "eval"):
        found = launch(tmp_path, *flags, config=LM, mode=mode)
        assert found.returncode == 0, found.stderr
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    first, last = float(rows[0]["loss"]), float(rows[-1]["loss"])
    assert last < first - 0.01
    if loss == "dpo":
        assert first == pytest.approx(np.log(2), abs=1e-4)  # nothing is preferred before the first step
    before, after = (read_decoder(folder)[1]["embed"] for folder in (checkpoint, tmp_path / "model"))
    assert not np.array_equal(before, after)


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"prompt": "a", "chosen": "b"}\n', "row 0: rejected"), ("", "0"), ("{\n", "line 1")],
)
def test_pairs_that_cannot_be_read(tmp_path, checkpoint, content, message):
    (tmp_path / "train.jsonl").write_text(content)
    flags = [
        f"--config.checkpoint={checkpoint}",
        f"--config.align.pairs={tmp_path}",
        "--config.data.length=60",
    ]
    found = launch(tmp_path / "run", *flags, config=LM)
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert message in found.stderr


# -- compression --------------------------------------------------------------------------------------------


def test_a_target_is_compared_with_its_smaller_selves(tmp_path, checkpoint):
    folder = tmp_path / "run"
    flags = {"workdir": folder, "config": SMOKE, "config.target.kind": "flax"}
    flags |= {"config.target.model": checkpoint, "config.target.max_tokens": 4}
    flags |= {"config.generate.styles": "('direct',)"}
    for program, more in (("generate", {}), ("compression", {"ratios": "0.5"})):
        found = launch_module(f"experiments.sage_rt.{program}", **flags, **more)
        assert found.returncode == 0, found.stderr
    rows = list(csv.DictReader((folder / "compression.csv").open()))
    assert [row["target"] for row in rows] == ["target", "target-modegpt-50"]
    assert [round(float(row["removed"]), 1) for row in rows] == [0.0, 0.5]
    assert {row["degenerate"] for row in rows} == {"1.0"}  # weights are random
    assert {row["keyword_success"] for row in rows} == {"1.0"}  # which is why nobody should count words
    assert {row["attack_success"] for row in rows} == {"0.0"}
    page = (folder / "compression.html").read_text()
    assert page.count("<tr>") == 3
    assert (folder / "compression.png").stat().st_size > 10_000


# -- a judge that says nothing ------------------------------------------------------------------------------


def test_a_judge_by_probabilities(tmp_path, checkpoint):
    """Every answer that has text gets one of the verdicts, and the same again."""
    model = ChatModel.read(checkpoint)
    with small_run(tmp_path, judge__kind="flax", judge__by="log_probability") as run:
        run.backends["judge"] = FlaxBackend(lambda: model)
        first = evaluated(run)
        rows = list(run.store.rows("judge.target"))
        assert len(first) == len(rows) > 5
        assert {row.result["judge"] for row in rows} == {"log_probability"}
        assert all(row.result["outcome"] in judges.VERDICTS for row in rows)
        assert all(1 / 4 <= row.result["confidence"] <= 1 for row in rows)
        assert evaluated(run) == first


def test_only_flax_models_judge_so(tmp_path):
    config = settings.variant_of("smoke")
    config.judge.by = "log_probability"
    with pytest.raises(ValueError, match=r"config\.judge\.by: got 'log_probability', allowed: text, unless"):
        session.check(config)


@pytest.mark.slow
def test_the_demonstration_and_the_repair(tmp_path):
    folder = tmp_path / "run"
    found = launch_module("experiments.sage_rt.demo", workdir=folder)
    assert found.returncode == 0, found.stderr
    manifest = json.loads((folder / "manifest.json").read_text())
    assert len(manifest["queries_by_leaf"]) == 279
    assert launch_module("experiments.sage_rt.repair", workdir=folder).returncode == 0
    figures = json.loads((folder / "repair" / "result.json").read_text())["figures"]
    values = {figure["name"]: figure["value"] for figure in figures}
    assert values["unseen/attack_success/relative_fall"] >= 0.3
    assert values["unseen/over_refusal/rise"] <= 0.05
    assert values["others/over_refusal/rise"] <= 0.05
