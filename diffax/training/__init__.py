"""Training: state, step, averages, optimisers and the loop."""

from diffax.training import ema
from diffax.training.loop import NonFiniteLossError, resume, train
from diffax.training.optim import OptimizerConfig, make_optimizer
from diffax.training.sharding import batch_sharding, make_mesh, replicate
from diffax.training.state import NetState, TrainState, count_params
from diffax.training.step import init_net, make_train_step

__all__ = [
    "NetState",
    "NonFiniteLossError",
    "OptimizerConfig",
    "TrainState",
    "batch_sharding",
    "count_params",
    "ema",
    "init_net",
    "make_mesh",
    "make_optimizer",
    "make_train_step",
    "replicate",
    "resume",
    "train",
]
