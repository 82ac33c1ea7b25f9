"""A policy from demonstrations to rollouts: training, then figures and pictures.

python -m experiments.mode_policy.demo --config=configs/mode_policy/navigation.py:demo --workdir=runs/policy
"""

import sys

from experiments import train_and_evaluate

if __name__ == "__main__":
    sys.exit(train_and_evaluate.run("configs/mode_policy/navigation.py:demo"))
