"""A policy from your own demonstrations: robomimic or LIBERO HDF5, zarr, LeRobot v3, RLDS, or .npz.

    pip install "diffax[robots]"
    python -m experiments.mode_policy.demo --config=configs/mode_policy/recorded.py:demo \
        --config.data.file=demonstrations.hdf5 --config.data.fields="('robot0_eef_pos', 'object')" \
        --workdir=runs/recorded

There is no simulator: figures are errors of actions in episodes that were held out. Variants: ``demo``
(minutes on 2 cores), ``smoke`` (seconds), ``full`` (the paper's network and optimiser).
"""

from ml_collections import ConfigDict

from experiments.mode_policy import settings


def get_config(variant: str = "demo") -> ConfigDict:
    """The configuration of a variant."""
    demo = {
        "suite": "recorded",
        "goal": "sentence",
        "data.horizon": 10,
        "sample.execute": 10,
        "train.num_steps": 6000,
        "train.batch_size": 64,
        "train.optimizer.learning_rate": 1e-3,
    }
    return settings.variant_of(variant, demo=demo, smoke={"eval.windows": 16})
