"""From nothing to a table: train the network of a configuration, then turn radiographs of held-out patients.

    python -m experiments.radrotator.demo --workdir=runs/pelvis

The same as the launcher's ``train`` and ``eval``, in one; ``--config`` chooses another configuration.
"""

import sys

from experiments import train_and_evaluate

if __name__ == "__main__":
    sys.exit(train_and_evaluate.run("configs/radrotator/pelvis.py:demo"))
