"""Every application of the survey, one after the other, and one page on all of them.

    python -m experiments.medical_survey.survey --workdir=runs/survey

Applications that are built on the same network share its training (``WORKDIR/images``); each has a folder of
its own for pictures and ``result.json``. A second call goes on where a broken one stopped. ``--tasks=a,b``
does some of them, ``--variant=smoke`` all in short.
"""

import importlib
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from diffax import checks
from diffax.evaluation import read_result
from diffax.io import write_text
from experiments import main, modes
from experiments.medical_survey import survey_page
from experiments.progress import say

CONFIGS = Path(__file__).parents[2] / "configs" / "medical_survey"
SHARED = "images"  # the folder of the network that several tasks use


class Entry(NamedTuple):
    """A task with a variant of its own in place of the demonstration; ``trained``: the folder of its network.

    ``metric``, ``ours``, ``baseline``: the figure that the overview shows, of which groups; ``lower``: where
    less is better.
    """

    task: str
    trained: str
    metric: str
    ours: str
    baseline: str
    variant: str = ""
    lower: bool = False

    @property
    def name(self) -> str:
        """Of its folder and its section."""
        return f"{self.task}-{self.variant}" if self.variant else self.task


ENTRIES = (
    Entry("anomaly_detection", SHARED, "best_dice", "classifier_free", "pca"),
    Entry("segmentation", "segmentation", "dice", "", "unet"),
    Entry("translation", "translation", "psnr", "", "unet"),
    Entry("translation", "translation-unpaired", "psnr", "", "grey_map", "unpaired"),
    Entry("registration", "registration", "dice", "", "demons"),
    Entry("denoising", SHARED, "psnr_0.1", "", "non_local_means"),
    Entry("denoising", "denoising-self_supervised", "psnr_0.1", "", "non_local_means", "self_supervised"),
    Entry("reconstruction", SHARED, "mri_psnr", "", "tv"),
    Entry("classification", SHARED, "accuracy", "", "cnn"),
    Entry("generation", SHARED, "frechet", "", "gaussian", lower=True),
    Entry("generation", "volumes", "frechet", "", "gaussian", "volumes", lower=True),
    Entry("text_conditioned_generation", "reports", "all_facts", "", "gaussian"),
)


def run(entry: Entry, variant: str, workdir: Path) -> survey_page.Section | None:
    """Train where that is not done, evaluate where that is not done; None where SIGTERM came first."""
    config = load_config(entry, variant)
    trained, folder = workdir / entry.trained, workdir / entry.name
    say(f"{entry.name}: {variant}, the network in {trained}")
    begun = time.monotonic()
    if not modes.train(config, str(trained)):
        return None
    note = folder / "result.json"
    if not note.exists():
        experiment, state = modes.load(config, trained)
        folder.mkdir(parents=True, exist_ok=True)
        modes.write_figures(config, folder, state, experiment.evaluate(state, folder))
    return survey_page.Section(entry, about(entry), read_result(note), folder, time.monotonic() - begun)


def load_config(entry: Entry, variant: str) -> ConfigDict:
    """The configuration of an entry: its variant, in short where that is "smoke"."""
    file = CONFIGS / f"{entry.task}.py"
    names = [entry.variant or "demo"] + ["smoke"] * (variant == "smoke")
    config: ConfigDict = runpy.run_path(str(file))["get_config"](",".join(names))
    config.classifier = entry.trained == SHARED  # one of the tasks needs it, and all share a training
    return config


def about(entry: Entry) -> str:
    """What the task's module says of its method."""
    module = importlib.import_module(f"experiments.medical_survey.tasks.{entry.task}")
    return module.__doc__ or ""


def program(argv: Sequence[str]) -> None:
    """Do the tasks that the flags name, then write the page."""
    values = flags.FLAGS
    workdir, asked = Path(values["workdir"].value), values["tasks"].value
    names = [entry.name for entry in ENTRIES]
    for name in asked or ():
        checks.require_one_of("--tasks", name, names)
    checks.require_one_of("--variant", values["variant"].value, ("demo", "smoke"))
    main.start_jax()
    sections: list[Any] = []
    for entry in (e for e in ENTRIES if not asked or e.name in asked):
        section = run(entry, values["variant"].value, workdir)
        if section is None:
            return
        sections.append(section)
        write_text(workdir / "survey.html", survey_page.render(sections))
    print(f"wrote {workdir / 'survey.html'}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "runs/survey", "folder of all runs and of the page")
    flags.DEFINE_list("tasks", [], "some of the tasks, by name; all by default")
    flags.DEFINE_string("variant", "demo", "demo, or smoke")
    sys.exit(main.run(program))
