"""One process of a run on several: ``python host_worker.py OUT STEPS DEVICES MESH [COORDINATOR COUNT ID]``.

Trains a tiny transformer on the digits to STEPS with checkpoints in OUT/checkpoints, and writes from process
0 the losses, final parameters, samples and the items that every process read to OUT/run-STEPS.npz.
"""

import sys
from pathlib import Path

import jax

out, steps, devices, mesh_text = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
jax.config.update("jax_num_cpu_devices", devices)

from diffax.training import distributed  # noqa: E402

if len(sys.argv) > 5:
    distributed.initialize(sys.argv[5], int(sys.argv[6]), int(sys.argv[7]))

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from diffax import VP, bind, grids, sample  # noqa: E402
from diffax.data import digits, pipeline  # noqa: E402
from diffax.io import CheckpointStore, in_batches  # noqa: E402
from diffax.losses import denoising_loss  # noqa: E402
from diffax.models import TENSOR_RULES, DiT  # noqa: E402
from diffax.samplers import ddpm  # noqa: E402
from diffax.training import (  # noqa: E402
    TrainState,
    data_shard,
    ema,
    init_net,
    make_mesh,
    make_train_step,
    parse_mesh,
    train,
)

model = DiT(patch_size=4, width=64, depth=1, heads=4, num_classes=10)
optimizer = optax.adam(1e-3)


def denoiser(params):
    def apply_fn(params, x, t, cond):
        return model.apply({"params": params}, x, t, cond)

    return bind(apply_fn, params, process=VP(), output="F", sigma_data=0.5, time_input="c_noise")


def loss_fn(params, batch, key):
    result = denoising_loss(key, denoiser(params), VP(), batch["image"], cond={"label": batch["label"]})
    return result.loss, {"items": jnp.sum(batch["image"] * jnp.arange(1.0, 65.0).reshape(8, 8, 1))}


def init():
    shapes = jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), {"label": jnp.zeros(1, jnp.int32)}
    params = model.init(jax.random.key(0), *shapes)["params"]
    net = init_net(params, optimizer, {"slow": ema.constant(0.9)})
    return TrainState.create(jax.random.key(1), {"model": net})


@jax.jit
def generate(params, keys, labels):
    grid = grids.log_snr(VP(), 3, final="zero")
    return sample(keys, denoiser(params), VP(), ddpm(), grid, shape=(8, 8, 1), cond={"label": labels}).x


mesh = make_mesh(*parse_mesh(mesh_text))
index, count = data_shard(mesh)
data = pipeline(digits(), 32 // count, seed=0, shard_index=index, shard_count=count)
losses = []
with CheckpointStore(out / "checkpoints") as store:
    state = train(
        init, make_train_step(loss_fn, optimizer, {"slow": ema.constant(0.9)}), data,
        num_steps=steps, log_every=1, checkpoint_every=100, checkpoints=store, mesh=mesh, rules=TENSOR_RULES,
        hooks=[lambda step, metrics, state: losses.append([step, metrics["loss"], metrics["items"]])],
    )  # fmt: skip
params = state.nets["model"].params
(images,) = in_batches(generate, params, jax.random.key(2), np.arange(16) % 10, 16)
leaves = [np.asarray(distributed.gather(leaf)).ravel() for leaf in jax.tree.leaves(params)]
if distributed.is_main():
    found = {"losses": np.asarray(losses), "params": np.concatenate(leaves), "images": images}
    np.savez(out / f"run-{steps}.npz", **found)
