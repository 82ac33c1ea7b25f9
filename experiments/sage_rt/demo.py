"""Everything in one command: prompts, a target that is trained on the spot, verdicts, report, exports.

    python -m experiments.sage_rt.demo --workdir=runs/sage_rt

The folder then holds ``report.html``, ``result.json``, and alignment data in ``exports/FORM``. The same
command again goes on where it was.
"""

import shutil
import sys
from collections.abc import Sequence

from absl import flags

from diffax.checks import require
from experiments import main
from experiments.progress import say
from experiments.sage_rt import evaluate, export, generate, session
from experiments.sage_rt.pipeline import Run

_SHARE = 0.2  # of controls among exported pairs


def program(argv: Sequence[str]) -> None:
    """Generate, evaluate, report, export."""
    retry = flags.FLAGS["retry_errors"].value
    with session.open_run(["generator", "aligned", "target", "judge"]) as run:
        generate.fill(run, retry)
        evaluate.fill(run, retry)
        _export(run)


def _export(run: Run) -> None:
    found = export.pairs(run, _SHARE)
    require(bool(found), "config.target", run.config.target.name, "a target with which some attacks succeed")
    for form in export.FORMS:
        shutil.rmtree(run.store.folder / "exports" / form, ignore_errors=True)
        rows = export.write_data(run, found, run.store.folder / "exports" / form, form)
        say(f"{rows} rows in {run.store.folder / 'exports' / form}", sys.stdout)


if __name__ == "__main__":
    session.define_flags("configs/sage_rt/toyland.py:demo")
    sys.exit(main.run(program))
