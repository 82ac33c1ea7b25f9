"""Policies from the folder of a trained run; its demonstrations are not needed."""

from pathlib import Path

from diffax import checks
from diffax.models import TENSOR_RULES
from experiments import modes
from experiments.mode_policy import experiment
from experiments.mode_policy.method import Trained, answers
from experiments.mode_policy.policy import About, Policy, about_of
from experiments.mode_policy.suite import read_facts
from experiments.workdir import read_config


def load_policy(workdir: str | Path, name: str = "model", checkpoint: str = "newest") -> Policy:
    """A policy of a run, its experts chosen for the sampler of the run's configuration.

    Raises ValueError for a folder of something else, or a policy that the run does not have.
    """
    trained, about = load_trained(workdir, checkpoint)
    checks.require_one_of("policy", name, trained.recipes)
    return Policy(answers(trained, name), about)


def load_trained(workdir: str | Path, checkpoint: str = "newest") -> tuple[Trained, About]:
    """All policies of a run, and their shapes."""
    path = Path(workdir)
    config = read_config(path)
    checks.require(config.get("experiment") == "mode_policy", "workdir", str(path), "a run of mode_policy")
    modes.check_run(config, path)
    facts = read_facts(path)
    recipes = experiment.rebuild(config, facts)
    init = experiment.make_init(config, facts, recipes)
    state = modes.load_state(config, path, init, TENSOR_RULES, checkpoint)
    return experiment.trained(config, recipes, state), about_of(config, facts)
