"""A decoder from training to its compressed checkpoints, or a checkpoint trained further.

python -m experiments.modegpt.demo --workdir=runs/modegpt
"""

import sys

from experiments import train_and_evaluate

if __name__ == "__main__":
    sys.exit(train_and_evaluate.run("configs/modegpt/embedded.py:demo"))
