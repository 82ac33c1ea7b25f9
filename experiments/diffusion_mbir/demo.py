"""From nothing to a table: train the prior of a configuration, then reconstruct its held-out volumes.

    python -m experiments.diffusion_mbir.demo --workdir=runs/mbir

The same as the launcher's ``train`` and ``eval``, in one; ``--config`` chooses another configuration.
"""

import sys

from experiments import train_and_evaluate

if __name__ == "__main__":
    sys.exit(train_and_evaluate.run("configs/diffusion_mbir/anatomy.py:demo"))
