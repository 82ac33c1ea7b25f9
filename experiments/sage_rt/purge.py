"""Remove a run's folder: what was generated, answered, judged and reported. Exports elsewhere stay.

python -m experiments.sage_rt.purge --workdir=DIR --yes
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from diffax.checks import require
from experiments import main
from experiments.progress import say
from experiments.sage_rt import session


def program(argv: Sequence[str]) -> None:
    """Remove the folder, if it is one of this experiment's runs."""
    folder = Path(flags.FLAGS["workdir"].value)
    ours = flags.FLAGS["workdir"].value and session.read_config(folder).get("experiment") == "sage_rt"
    require(bool(ours), "--workdir", str(folder), "the folder of a run of this experiment")
    require(flags.FLAGS["yes"].value, "--yes", False, "True: what is removed cannot be had back")
    shutil.rmtree(folder)
    say(f"removed {folder}", sys.stdout)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "", "folder of the run")
    flags.DEFINE_bool("yes", False, "remove it")
    sys.exit(main.run(program))
