"""A target's answers to the prompts of a folder, verdicts on them, figures: ``result.json``, ``report.html``.

    python -m experiments.sage_rt.evaluate --workdir=DIR
    python -m experiments.sage_rt.evaluate --workdir=DIR --config=FILE --config.target.kind=http \
        --config.target.url=http://127.0.0.1:8000/v1 --config.target.model=NAME

Several targets share a folder under names of their own (``config.target.name``).
"""

import sys
from collections.abc import Sequence

from absl import flags

from diffax.checks import require
from experiments import main
from experiments.progress import say
from experiments.sage_rt import report, session, stages
from experiments.sage_rt.pipeline import Run


def program(argv: Sequence[str]) -> None:
    """Answer, judge, report."""
    with session.open_run(["target", "judge"]) as run:
        fill(run, flags.FLAGS["retry_errors"].value)


def fill(run: Run, retry: bool) -> None:
    """Both stages, the manifest and the report; ``retry``: ask again what ended in an error."""
    for stage in ("respond", "judge") if retry else ():
        run.store.retry(f"{stage}.{run.config.target.name}")
    allowed = "one for which experiments.sage_rt.generate has made queries"
    require(run.store.size("query") > 0, "--workdir", str(run.store.folder), allowed)
    stages.respond(run)
    stages.judge(run)
    session.write_manifest(run)
    found = report.write(run)
    for figure in found[:8]:
        bounds = "" if figure.low is None else f" [{figure.low:.4f}, {figure.high:.4f}]"
        say(f"{figure.name} {figure.value:.4f}{bounds} n={figure.n_fake}", sys.stdout)
    scored = sum(figure.n_fake or 0 for figure in found if figure.name in ("attack_success", "over_refusal"))
    name = run.config.target.name
    require(scored > 0, "config.target", name, "a model of whose answers some can be scored; none could")


if __name__ == "__main__":
    session.define_flags()
    sys.exit(main.run(program))
