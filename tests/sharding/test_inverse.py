"""A volume's posterior on one device and on eight, slices shared out as long reconstructions do it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import Partial

from diffax import EDM, gaussian_denoiser, grids
from diffax.inverse import LinearProblem, dds_volume, in_chunks, normalise, to_images
from diffax.operators import LinearOperator, parallel_beam
from diffax.samplers import advance, begin
from diffax.training import make_mesh

SLICES, SHAPE, PROCESS = 10, (8, 8, 1), EDM()
GRID = grids.karras(PROCESS, 4, final="zero")


def problem() -> LinearProblem:
    """Four views; as a matrix, which compiles faster than the projector."""
    columns = parallel_beam((8, 8, 64), np.arange(4) * np.pi / 4, 12)(jnp.eye(64).reshape(8, 8, 64))
    forward = Partial(_views, columns.reshape(48, 64))
    operator = LinearOperator(forward, Partial(_back, columns.reshape(48, 64)), (8, 8, SLICES), (48, SLICES))
    truth = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (8, 8, SLICES)), jnp.float32)
    return normalise(LinearProblem(operator, operator(truth)))


def _views(matrix, x):
    return matrix @ x.reshape(64, -1)


def _back(matrix, y):
    return (matrix.T @ y).reshape(8, 8, -1)


def reconstructed(mesh, seen):
    """Two steps and two more; the batch filled up to a multiple of the devices."""
    devices = mesh.size if mesh else 1
    batch = SLICES + (-SLICES % devices)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(1), i))(jnp.arange(batch))
    variances = np.random.default_rng(1).uniform(0.3, 1.0, SHAPE).astype(np.float32)
    exact = gaussian_denoiser(PROCESS, np.zeros(SHAPE, np.float32), variances)

    def prior(x, t, cond=None):
        seen.append(x.shape[0])
        return exact(x, t)

    def spread(state):
        if mesh is None:
            return state
        rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        return state._replace(x=jax.lax.with_sharding_constraint(state.x, rows))

    def start(problem):
        return spread(begin(keys, PROCESS, dds_volume(problem, weight=1e-2, rho=0.05), GRID, shape=SHAPE))

    def more(problem, state, n_steps):
        sampler = dds_volume(problem, weight=1e-2, rho=0.05)
        denoise = in_chunks(1, mesh)(prior)
        return spread(advance(keys, denoise, PROCESS, sampler, GRID, state, n_steps))

    given = problem()
    state = jax.jit(start)(given)
    go_on = jax.jit(more, static_argnums=2)
    for _ in range(2):
        state = go_on(given, state, 2)
    return state, np.asarray(to_images(given, state.x))


def test_a_volume_does_not_depend_on_the_devices():
    calls, shares = [], []
    alone, expected = reconstructed(None, calls)
    state, found = reconstructed(make_mesh(4, 2, 1), shares)
    assert alone.x.shape[0] == 10
    assert state.x.shape[0] == 16
    assert {shard.data.shape[0] for shard in state.x.addressable_shards} == {2}
    assert {*calls, *shares} == {1}  # one slice at a time on every device
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5)
