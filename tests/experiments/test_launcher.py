"""The launcher as a user calls it: every mode, bad input, and a killed run."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from launching import ENVIRONMENT, digests, launch

from configs.medical_survey.ddpm_digits import get_config
from diffax.io import load_params, save_png
from experiments import build
from experiments.medical_survey import method


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An undisturbed run of 20 steps."""
    workdir = tmp_path_factory.mktemp("run") / "w"
    done = launch(workdir)
    assert done.returncode == 0, done.stderr
    return workdir


def test_a_run_leaves_what_the_contract_names(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.json", "metrics.jsonl", "metrics.csv", "checkpoints"} <= names
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert sorted(digests(trained)) == [10, 20]


def test_eval_and_sample(trained):
    done = launch(trained, mode="eval")
    assert done.returncode == 0, done.stderr
    result = json.loads((trained / "result.json").read_text())
    figures = {figure["name"]: figure for figure in result["figures"]}
    frechet = figures["ddim/frechet"]
    assert frechet["n_fake"] == 80
    assert frechet["n_real"] == 360
    assert frechet["split"] == "test"
    assert len(frechet["extractor"]["digest"]) == 64
    assert figures["ddim/nfe"]["value"] == 4
    assert 0 < figures["floor/frechet"]["value"] < frechet["value"]
    done = launch(trained, mode="sample")
    assert done.returncode == 0, done.stderr
    assert (trained / "samples-ddim.png").stat().st_size > 500
    assert np.load(trained / "samples-ddim.npz")["image"].shape == (10, 8, 8, 1)


def test_help_says_what_the_program_is_and_each_flag_once():
    command = [sys.executable, "-m", "experiments.main", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The launcher of every experiment.")
    assert [done.stdout.count(f"--{name}:") for name in ("config", "compilation_cache")] == [1, 1]


ALONE = """
import sys, jax, numpy as np
call = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read())).call
images = call(np.arange(3, dtype=np.uint32), np.array([7, 1, -1], np.int32), np.float32(2.0))
np.save(sys.argv[2], images)
assert not {"flax", "diffax", "experiments"} & set(sys.modules)
"""


@pytest.mark.slow  # tests/unit/test_export.py does the same without the launcher
def test_export_runs_where_only_jax_is(trained, tmp_path):
    done = launch(trained, mode="export")
    assert done.returncode == 0, done.stderr
    folder = trained / "export"
    file = str(folder / "sampler-ddim.jaxexport")
    arguments = [sys.executable, "-c", ALONE, file, str(tmp_path / "images.npy")]
    subprocess.run(arguments, check=True, env=ENVIRONMENT, cwd=tmp_path)
    config = get_config("smoke")
    params, metadata = load_params(folder / "params.safetensors")
    assert metadata["step"] == "20"
    model, solver = build.make_model(config.model, 10), method.make_solver(config.solvers["ddim"])
    function = method.make_exportable(config, model, params, (8, 8, 1), solver)
    labels = np.array([7, 1, -1], np.int32)
    here = jax.jit(function)(np.arange(3, dtype=np.uint32), labels, np.float32(2.0))
    np.testing.assert_allclose(np.load(tmp_path / "images.npy"), here, atol=1e-6)


def test_the_same_command_again_has_nothing_to_do(trained):
    before = digests(trained)
    done = launch(trained)
    assert done.returncode == 0
    assert "resuming from the checkpoint at step 20" in done.stderr
    assert digests(trained) == before


@pytest.mark.parametrize(
    ("flags", "options", "words"),
    [
        (["--config.train.num_stepz=3"], {}, ["num_stepz"]),
        (["--config.train.num_steps=many"], {}, ["num_steps", "many"]),
        ([], {"config": "configs/medical_survey/ddpm_digits.py:huge"}, ["variant", "huge", "demo", "smoke"]),
        ([], {"config": "configs/none.py"}, ["configs/none.py"]),
        (["--mesh=4xmany"], {}, ["mesh", "4xmany"]),
        (["--config.mesh=64x1x1"], {}, ["devices", "64"]),
        (["--config.output=noise"], {}, ["output", "noise", "eps"]),
        (["--config.data.source=/nowhere.npz"], {}, ["/nowhere.npz"]),
        ([], {"mode": "dance"}, ["mode", "dance"]),
        ([], {"mode": "eval"}, ["workdir"]),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, flags, options, words):
    done = launch(tmp_path / "w", *flags, **options)
    lines = [line for line in done.stderr.splitlines() if line]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]
    assert not (tmp_path / "w").exists()


def test_another_runs_folder_is_left_alone(trained):
    before = digests(trained)
    done = launch(trained, "--config.model.channels=16")
    assert done.returncode == 2
    assert "config.model.channels" in done.stderr
    assert digests(trained) == before


@pytest.mark.slow
def test_a_folder_of_ones_own_images_without_labels(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(300):
        save_png(folder / f"{index}.png", rng.uniform(-1, 1, (9, 12, 3)))
    data = [
        f"--config.data.{k}={v}"
        for k, v in {"source": folder, "holdout": 0.4, "size": 8, "classes": 0}.items()
    ]
    few = ["--config.train.num_steps=2", "--config.eval.n=100"]
    done = launch(tmp_path / "w", *data, "--config.data.classes=3", *few)
    assert done.returncode == 2
    assert "config.data.classes: got 3" in done.stderr
    for mode in ("train", "eval", "sample"):
        done = launch(tmp_path / "w", *data, *few, mode=mode)
        assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "w" / "result.json").read_text())
    figures = {figure["name"]: figure for figure in result["figures"]}
    assert figures["ddim/frechet"]["extractor"]["name"].startswith("random")
    assert figures["ddim/class_accuracy"]["value"] == "nan"
    assert np.load(tmp_path / "w" / "samples-ddim.npz")["image"].shape == (10, 8, 8, 3)


def test_damaged_data_is_named(tmp_path):
    images = np.zeros((50, 8, 8), np.float32)
    images[3, 2, 1] = np.nan
    np.savez(tmp_path / "data.npz", image=images, label=np.arange(50) % 10)
    done = launch(tmp_path / "w", f"--config.data.source={tmp_path / 'data.npz'}")
    assert done.returncode == 2
    assert "nan" in done.stderr.lower()
    assert not (tmp_path / "w").exists()
