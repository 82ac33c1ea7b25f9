"""A decoder from training to the table of methods, and a compressed one trained further."""

import json

import numpy as np
import pytest
from launching import launch

from diffax.io.decoder_files import read_decoder

CONFIG = "configs/modegpt/embedded.py:smoke"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained and measured decoder."""
    workdir = tmp_path_factory.mktemp("modegpt") / "run"
    for mode in ("train", "eval"):
        done = launch(workdir, config=CONFIG, mode=mode)
        assert done.returncode == 0, done.stderr
    return workdir


def test_the_table_has_every_method_and_the_checkpoint_reads(run):
    figures = {f["name"]: f["value"] for f in json.loads((run / "result.json").read_text())["figures"]}
    rows = (run / "table.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["dense", "modegpt", "svd"]
    assert figures["perplexity"] == pytest.approx(figures["dense/0/perplexity"], rel=1e-5)
    assert figures["modegpt/0.3/removed"] == pytest.approx(0.3, abs=0.03)
    assert 0 < figures["modegpt/0.3/kl"] < 1
    config, params = read_decoder(run / "model")
    assert params["embed"].shape == (config.vocabulary, config.width)
    assert (run / "ratios.png").stat().st_size > 10_000


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_checkpoint_is_trained_further(run, tmp_path, rank):
    """With low-rank changes all but the layers' matrices stays as it was."""
    flags = (
        f"--config.checkpoint={run / 'model'}",
        f"--config.lora.rank={rank}",
        "--config.train.num_steps=30",
        "--config.train.checkpoint_every=30",
        "--config.train.optimizer.warmup_steps=5",
    )
    for mode in ("train", "eval"):
        done = launch(tmp_path / "more", *flags, config="configs/modegpt/recover.py:smoke", mode=mode)
        assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "more" / "result.json").read_text())["figures"]
    figures = {figure["name"]: figure["value"] for figure in result}
    assert figures["perplexity"] < figures["perplexity_before"]
    before, after = (read_decoder(folder)[1] for folder in (run / "model", tmp_path / "more" / "model"))
    assert np.array_equal(before["embed"], after["embed"]) == bool(rank)
    assert not np.array_equal(before["layers_0"]["up"]["kernel"], after["layers_0"]["up"]["kernel"])


def test_mistakes_end_with_one_line(tmp_path):
    for flag, said in (
        ("lora.rank=2", "config.lora.rank: got 2, allowed: 0 without config.checkpoint"),
        ("model.kv_heads=3", "kv_heads: got 3"),
    ):
        done = launch(tmp_path / "bad", f"--config.{flag}", config=CONFIG)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert said in done.stderr
