"""The configurations' common ground: every field with its default."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments import defaults
from experiments.medical_survey import settings as survey

METHOD: dict[str, Any] = {
    "divergence": "jensen_shannon",  # or any other name in diffax.losses.divergences; "rkl" is DMD2
    "guidance": 1.0,  # scale of classifier-free guidance in the teacher
    "student_levels": (80.0,),  # noise levels sigma / alpha of its steps, highest first
    "noise": {"low": 0.002, "high": 80.0},  # levels at which laws are compared
    "fake_weighting": {"name": "edm"},  # of the fake score's loss
    # w beside h: "inverse_error" (DMD's, its denominator at least ``floor`` times the noise level), or
    # "inverse_level" (alpha / sigma)
    "weight": {"name": "inverse_error", "floor": 0.0},
    "ratio": {"bound": 10.0, "low": 0.1, "high": 20.0, "bins": 10, "spacing": "uniform", "decay": 0.0},
    "gan": {
        "weight": 1e-3,
        "critic_weight": 1.0,
        "features": "teacher",  # "fake": of the fake score; "input": none, a perceptron on x_t
        "levels": (),  # names of the activations that heads are on; () for all
        "width": 0,  # of the heads or the perceptron; 0: as the activations
        "dtype": "float32",
        "penalty": "exact",  # of R1; or "approximate"
        "gamma": 0.0,
    },
    "critic_steps": 5,  # updates of fake score and discriminator for one of the student
}
_COMMON = {
    **defaults.RUN,
    "experiment": "f_distill",
    **METHOD,
    "train": {
        "num_steps": 3000,  # updates of the student
        "batch_size": 256,  # of every update
        "ema": ("warmup:0.999",),
        "log_every": 100,
        "checkpoint_every": 500,
        **defaults.CHECKPOINTS,
        "critic_rate": 1e-3,  # learning rate of fake score and discriminator
        "optimizer": {
            "learning_rate": 5e-4,
            "warmup_steps": 0,
            "schedule": "cosine",
            "weight_decay": 0.0,
            "clip_norm": 10.0,
            "beta1": 0.0,
            "beta2": 0.99,
        },
    },
    "sample": {"n": 100, "batch_size": 500, "ema": "warmup:0.999", "per_file": 10_000, "png": False},
    "eval": {"n": 1440, "batch_size": 720, "teacher": "heun_churn-18"},
    "solvers": {},  # of the teacher, as in medical_survey; ``eval.teacher`` names the one to compare with
}
SOLVERS = {
    f"{name}-{steps}": survey.solver("SDE", survey.EDM, name, "karras", steps)
    for name, counts in (("heun_churn", (18,)), ("heun", (18, 9, 5, 3)), ("dpmpp_2m", (12, 6)))
    for steps in counts
}
# what all of the paper's image runs share (table 5 and the code released with it)
IMAGES_FULL = {
    "critic_steps": 4,  # every fifth update is the student's
    "gan.dtype": "bfloat16",
    "train.ema": ("warmup:0.9999", "warmup:0.99995", "warmup:0.9996"),
    "sample.ema": "warmup:0.9999",
    "train.batch_size": 512,
    "train.checkpoint_every": 1000,
    "train.log_every": 100,
    "train.optimizer.schedule": "constant",
    "train.optimizer.weight_decay": 1e-2,
    "train.optimizer.beta1": 0.9,
    "train.optimizer.beta2": 0.999,
    "eval.n": 10_000,
    "eval.batch_size": 500,
}
# for 25 minutes with a teacher that is short of training too
SHORT = {
    "train.num_steps": 1500,
    "train.batch_size": 256,
    "train.checkpoint_every": 500,
    "train.ema": ("warmup:0.999",),
    "sample.ema": "warmup:0.999",
}
# a run of seconds with every part in it
SMOKE = {
    "train.num_steps": 20,
    "train.batch_size": 16,
    "train.log_every": 5,
    "train.checkpoint_every": 10,
    "critic_steps": 2,
    "solvers": {name: SOLVERS[name] for name in ("heun_churn-18", "heun-18", "heun-3")},
    "sample.n": 10,
    "sample.batch_size": 20,
    "eval.n": 80,
    "eval.batch_size": 80,
    "eval.classifier_steps": 60,
    "eval.real_n": 200,
}
PERCEPTRON = {
    "name": "MLP",
    "width": 256,
    "blocks": 4,
    "dropout": 0.1,
    "time_embedding": "fourier",
    "time_scale": 1.0,
}


def teacher_run(**changes: Any) -> dict[str, Any]:
    """A whole configuration of ``medical_survey`` with changes: mappings from dotted names, as keywords."""
    return survey.variant_of("own", {"own": changes}).to_dict()


def digits_teacher() -> dict[str, Any]:
    """Perceptrons of a digit's pixels: on a CPU ten times faster than a U-Net."""
    train = {"num_steps": 8000, "batch_size": 128, "checkpoint_every": 2000, "log_every": 250}
    changes = {f"train.{name}": value for name, value in train.items()}
    return teacher_run(**changes, **{"model": PERCEPTRON, "train.optimizer.learning_rate": 2e-3})


def smoke_teacher() -> dict[str, Any]:
    """A tiny perceptron, trained for 20 steps."""
    return teacher_run(**survey.smoke({}, {}) | {"model": {**PERCEPTRON, "width": 32, "blocks": 1}})


def points() -> ConfigDict:
    """Eight Gaussians on a ring: an exact teacher, perceptrons that start as denoisers of it."""
    data = {"source": "ring"}
    own = {
        "objective": "pipeline",  # or "particles": points in place of a generator, all laws exact
        "data": data,
        "model": {"name": "MLP", "width": 128, "blocks": 3, "time_embedding": "fourier", "time_scale": 1.0},
        "start": {"steps": 8000, "learning_rate": 1e-3},  # of the network that student and fake start from
        "particles": {"n": 400, "start_std": 0.3, "step_size": 0.02, "settle": 0.7},
    }
    config = ConfigDict({**_COMMON, **own})
    config.student_levels, config.noise = (5.0,), ConfigDict({"low": 0.02, "high": 5.0})
    # slower than images: the masses of modes wander with the rates
    config.train.critic_rate, config.train.optimizer.learning_rate = 5e-4, 2.5e-4
    config.weight.floor = 0.5  # in the plane an error may come near 0 by chance
    config.gan.update({"features": "input", "width": 128})
    config.ratio.spacing = "log"
    config.eval.update({"n": 10_000, "batch_size": 10_000})
    config.sample.update({"n": 10_000, "batch_size": 10_000})
    config.solvers = ConfigDict({name: SOLVERS[name] for name in ("heun-18", "heun-9", "heun-5")})
    config.eval.teacher = "heun-18"
    return config


def images() -> ConfigDict:
    """The embedded digits, and a teacher of them."""
    evaluation = {
        "gate": 0.5,  # class probability below which a sample belongs to no class
        "classifier_steps": 600,
        "inception": "",  # a file of Inception's weights, for its features
        "real_n": 0,  # real images of each split to compare with; 0 for all
    }
    own = {
        "teacher": "",  # the folder of a medical_survey run; "" to train ``teacher_run`` in WORKDIR/teacher
        "teacher_run": {},  # its whole configuration, or {} where a teacher must be given
        "data": dict(defaults.IMAGES),  # what the discriminator takes for real, and such a teacher learns
    }
    config = ConfigDict({**_COMMON, **own})
    config.eval.update(evaluation)
    config.solvers = ConfigDict(SOLVERS)
    return config


def variant_of(
    name: str | None, variants: Mapping[str, Mapping[str, Any]], base: ConfigDict, default: str = "demo"
) -> ConfigDict:
    """The base with a variant's changes (:func:`experiments.defaults.variant_of`)."""
    whole = ("model", "solvers", "teacher_run")
    return defaults.variant_of(name, variants, base, default=default, whole=whole)
