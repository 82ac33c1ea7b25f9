"""Training: state, step, averages, optimisers and the loop."""

from diffax.training import ema
from diffax.training.feed import DataIterator, Feed
from diffax.training.loop import NonFiniteLossError, train
from diffax.training.optim import OptimizerConfig, make_optimizer
from diffax.training.preemption import Preemption
from diffax.training.sharding import (
    abstract,
    batch_sharding,
    bytes_per_device,
    create,
    data_shard,
    make_mesh,
    mesh_of,
    parse_mesh,
    place,
    place_batch,
    replicate,
    replicated,
    tree_shardings,
)
from diffax.training.state import NetState, TrainState, count_params
from diffax.training.step import apply_gradients, guard, init_net, make_train_step, split_batch

__all__ = [
    "DataIterator",
    "Feed",
    "NetState",
    "NonFiniteLossError",
    "OptimizerConfig",
    "Preemption",
    "TrainState",
    "abstract",
    "apply_gradients",
    "batch_sharding",
    "bytes_per_device",
    "count_params",
    "create",
    "data_shard",
    "ema",
    "guard",
    "init_net",
    "make_mesh",
    "make_optimizer",
    "make_train_step",
    "mesh_of",
    "parse_mesh",
    "place",
    "place_batch",
    "replicate",
    "replicated",
    "split_batch",
    "train",
    "tree_shardings",
]
