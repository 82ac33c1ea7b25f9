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


def program(argv: Sequence[str]) -> None:
    """Answer, judge, report."""
    with session.open_run(["target", "judge"]) as run:
        if flags.FLAGS["retry_errors"].value:
            for stage in ("respond", "judge"):
                run.store.retry(f"{stage}.{run.config.target.name}")
        allowed = "one for which experiments.sage_rt.generate has made queries"
        require(run.store.size("query") > 0, "--workdir", str(run.store.folder), allowed)
        stages.respond(run)
        stages.judge(run)
        session.write_manifest(run)
        figures = report.write(run)
        for figure in figures[:8]:
            bounds = "" if figure.low is None else f" [{figure.low:.4f}, {figure.high:.4f}]"
            say(f"{figure.name} {figure.value:.4f}{bounds} n={figure.n_fake}", sys.stdout)
        scored = any(figure.n_fake for figure in figures if figure.name in ("attack_success", "over_refusal"))
        require(scored, "config.target", "no answer that could be scored", "a target that answers, a judge")


if __name__ == "__main__":
    session.define_flags()
    sys.exit(main.run(program))
