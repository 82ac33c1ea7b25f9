"""Total variation by another algorithm, in numpy and float64, and the objectives that it found.

    python tests/oracle/pdhg.py        # prints OBJECTIVES anew, in about half a minute

``min |M x - y|^2 / 2 + weight TV(x)``, x in a box, by the primal-dual algorithm of Chambolle & Pock 2011
(J. Math. Imaging Vis. 40), algorithm 1, with both terms in the dual. M is the matrix of the library's
projector, column by column, which ``test_tomography`` checks by itself. Nothing else is the library's.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from diffax.operators import parallel_beam


class Case(NamedTuple):
    """A problem, and whether TV is isotropic."""

    shape: tuple[int, int, int]
    axes: tuple[int, ...]
    isotropic: bool
    weight: float
    bounds: tuple[float, float] | None = None


PLANE, STACK = (16, 16, 1), (6, 6, 5)
CASES = {
    "isotropic": Case(PLANE, (1, 0), True, 2e-3),
    "isotropic, strong": Case(PLANE, (1, 0), True, 1e-2),
    "anisotropic": Case(PLANE, (1, 0), False, 2e-3),
    "anisotropic, strong": Case(PLANE, (1, 0), False, 1e-2),
    "bounds": Case(PLANE, (1, 0), True, 2e-3, (0.0, 0.8)),
    "along z": Case(STACK, (2,), False, 1e-2),
    "volume": Case(STACK, (1, 0, 2), True, 5e-3),
}


@functools.cache
def matrix_of(shape: tuple[int, int, int]) -> np.ndarray:
    """The projector of one slice divided by its norm, (views detectors, rows columns)."""
    h, w, _ = shape
    basis = jnp.eye(h * w).reshape(h, w, h * w)
    whole = np.asarray(parallel_beam(basis.shape, angles(shape), detectors(shape))(basis), np.float64)
    matrix = whole.reshape(-1, h * w)
    return matrix / np.linalg.norm(matrix, 2)


def angles(shape: tuple[int, int, int]) -> np.ndarray:
    """Few views of the plane; many of the stack, that TV along z alone does not leave slices undetermined."""
    return np.linspace(0, np.pi, 8 if shape[2] == 1 else 24, endpoint=False)


def detectors(shape: tuple[int, int, int]) -> int:
    return int(1.5 * shape[0])


def truth_of(shape: tuple[int, int, int]) -> np.ndarray:
    """A disc with a box in it; along z both grow."""
    h, w, n = shape
    y, x, z = np.meshgrid(*(np.linspace(-1, 1, m) for m in (h, w)), np.linspace(0, 1, n), indexing="ij")
    disc = (x**2 + y**2 < 0.6 + 0.1 * z).astype(float)
    return 0.5 * disc + 0.5 * ((np.abs(x - 0.1) < 0.3 + 0.1 * z) & (np.abs(y) < 0.25))


@functools.cache
def data_of(shape: tuple[int, int, int]) -> np.ndarray:
    """Noisy measurements of the truth by the matrix, (views detectors, slices)."""
    clean = matrix_of(shape) @ truth_of(shape).reshape(-1, shape[2])
    return clean + 0.01 * np.random.default_rng(0).normal(size=clean.shape)


def differences(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """x[i + 1] - x[i] along each axis, 0 at the last place."""
    return np.stack([np.diff(x, axis=a, append=np.take(x, [-1], axis=a)) for a in axes])


def sizes(d: np.ndarray, isotropic: bool) -> np.ndarray:
    return np.sqrt((d**2).sum(axis=0, keepdims=True)) if isotropic else np.abs(d)


def objective(case: Case, x: np.ndarray) -> float:
    misfit = matrix_of(case.shape) @ x.reshape(-1, case.shape[2]) - data_of(case.shape)
    return 0.5 * (misfit**2).sum() + case.weight * sizes(differences(x, case.axes), case.isotropic).sum()


def transposed(p: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    total = np.zeros(p.shape[1:])
    for part, axis in zip(p, axes):
        part = np.moveaxis(part, axis, 0)
        back = np.zeros(part.shape)
        back[1:] += part[:-1]
        back[:-1] -= part[:-1]
        total += np.moveaxis(back, 0, axis)
    return total


def pdhg(case: Case, n_steps: int = 10_000) -> np.ndarray:
    """The minimiser."""
    m, y = matrix_of(case.shape), data_of(case.shape)
    low, high = case.bounds or (-np.inf, np.inf)
    tau, sigma = np.array([4.0, 0.25]) * 0.99 / np.sqrt(1 + 4 * len(case.axes))
    x = lead = np.zeros(case.shape)
    q, p = np.zeros_like(y), np.zeros((len(case.axes), *case.shape))
    for _ in range(n_steps):
        q = (q + sigma * (m @ lead.reshape(-1, case.shape[2]) - y)) / (1 + sigma)
        p = p + sigma * differences(lead, case.axes)
        p = p / np.maximum(1, sizes(p, case.isotropic) / case.weight)
        back = (m.T @ q).reshape(case.shape) + transposed(p, case.axes)
        after = np.clip(x - tau * back, low, high)
        x, lead = after, 2 * after - x
    return x


if __name__ == "__main__":
    for name, case in CASES.items():
        print(f"    {name!r}: {objective(case, pdhg(case)):.7f},")
