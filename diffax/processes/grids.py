r"""Time grids: explicit decreasing arrays of length n + 1, noise first, one step between neighbours.

``final="t_min"`` ends a grid at the process's ``t_min``; ``final="zero"`` takes n noise levels down to
``t_min`` and then one last step to ``t_zero``, where sigma vanishes (the EDM convention). The table grids
(``trailing``, ``leading``, ``from_indices``) end at zero, as the samplers of discrete DDPM tables do.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from diffax import checks
from diffax.processes.coefficients import marginal
from diffax.processes.gaussian import GaussianProcess


def uniform(process: GaussianProcess, n: int, *, final: str = "t_min") -> Float[Array, "{n}+1"]:
    """Equal steps in time."""
    levels = _levels(n, final)
    return _finish(process, jnp.linspace(process.t_max, process.t_min, levels), final)


def karras(
    process: GaussianProcess, n: int, rho: float = 7.0, *, final: str = "t_min"
) -> Float[Array, "{n}+1"]:
    """Equal steps in ``(sigma / alpha)^(1/rho)``. Karras et al. 2022 (arXiv:2206.00364), eq. 5."""
    checks.require_number("rho", rho, 0.0, np.inf, "a positive number")
    high, low = _log_snr_range(process)
    # in logs relative to the larger end, so that noise levels of 1e4 and more do not overflow
    ramp = jnp.linspace(1.0, jnp.exp((high - low) / (2.0 * rho)), _levels(n, final))
    return _finish(process, process.time(high - 2.0 * rho * jnp.log(ramp))[::-1], final)


def log_snr(process: GaussianProcess, n: int, *, final: str = "t_min") -> Float[Array, "{n}+1"]:
    """Equal steps in ``log(alpha^2 / sigma^2)``; geometric noise levels where alpha = 1."""
    high, low = _log_snr_range(process)
    return _finish(process, process.time(jnp.linspace(low, high, _levels(n, final))), final)


def trailing(process: GaussianProcess, n: int, *, table_size: int | None = None) -> Float[Array, "{n}+1"]:
    """Table indices ``round(N, N - N/n, ...) - 1``: starts at the noisiest entry, ends at zero.

    ``table_size`` N defaults to the process's own, or 1,000. Lin et al. 2023 (arXiv:2305.08891), table 2.
    """
    size = _table_size(process, n, table_size)
    return from_indices(process, np.round(np.arange(size, 0, -size / n)[:n]) - 1, table_size=size)


def leading(
    process: GaussianProcess, n: int, *, table_size: int | None = None, offset: int = 0
) -> Float[Array, "{n}+1"]:
    """Table indices ``offset + (0, k, 2k, ...)`` with ``k = N // n``, noisiest first, ends at zero.

    Song et al. 2020 (arXiv:2010.02502). Its first entry is not the noisiest of the table.
    """
    size = _table_size(process, n, table_size)
    return from_indices(process, np.arange(n)[::-1] * (size // n) + offset, table_size=size)


def from_indices(
    process: GaussianProcess, indices: Sequence[int] | np.ndarray, *, table_size: int | None = None
) -> Float[Array, "points"]:
    """The times ``t_max (i + 1) / N`` of decreasing entries of a table of size N, then ``t_zero``."""
    index, size = np.asarray(indices), _table_size(process, 1, table_size)
    inside = index.ndim == 1 and index.size > 0 and index.min() >= 0 and index.max() < size
    checks.require(bool(inside), "indices", indices, f"a vector of integers in [0, {size - 1}]")
    checks.require(bool(np.all(np.diff(index) < 0)), "indices", indices, "strictly decreasing integers")
    return _finish(process, process.t_max * jnp.asarray((index + 1) / size), "zero")


def validate(process: GaussianProcess, grid: Float[ArrayLike, "..."]) -> None:
    """Raise ``ValueError`` unless the grid decreases inside ``[t_min, t_max]``.

    The last point may also be ``t_zero``. Traced grids and processes are taken on trust.
    """
    ends = (process.t_min, process.t_max)
    if not all(checks.is_concrete(value) for value in (grid, *ends)):
        return
    times = np.asarray(grid, np.float64)
    checks.require(times.ndim == 1 and times.size >= 2, "grid", times.shape, "a vector of two or more times")
    checks.require(bool(np.all(np.diff(times) < 0)), "grid", _brief(times), "strictly decreasing times")
    low, high = (float(np.asarray(end)) for end in ends)
    slack = 1e-5 * max(abs(low), abs(high))  # grids are float32; ends may be float64
    inner = times[:-1] if times[-1] == process.t_zero else times
    inside = bool(np.all((inner >= low - slack) & (inner <= high + slack)))
    checks.require(inside, "grid", _brief(times), f"times in [t_min, t_max] = [{low:g}, {high:g}]")


def _brief(times: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in (times if times.size <= 6 else (*times[:3], *times[-3:]))]


def _levels(n: int, final: str) -> int:
    """How many points lie above zero."""
    checks.require_one_of("final", final, ("t_min", "zero"))
    checks.require(n >= 1, "n", n, "an integer >= 1")
    return n + 1 if final == "t_min" else n


def _finish(process: GaussianProcess, times: Float[Array, "k"], final: str) -> Float[Array, "points"]:
    """Pin the float ends to the process's own, and append ``t_zero`` where the grid ends there."""
    times = jnp.clip(times, min=process.t_min, max=process.t_max)
    if final == "t_min":
        return times.at[-1].set(process.t_min)
    return jnp.concatenate([times, jnp.full((1,), process.t_zero, times.dtype)])


def _log_snr_range(process: GaussianProcess) -> tuple[Array, Array]:
    """The largest and smallest log-SNR of the interval."""
    return marginal(process, process.t_min).log_snr, marginal(process, process.t_max).log_snr


def _table_size(process: GaussianProcess, n: int, given: int | None) -> int:
    """The size of the table, checked against the number of steps."""
    size: int = getattr(process, "table_size", 1000) if given is None else given
    checks.require(1 <= n <= size, "n", n, f"an integer in [1, {size}]")
    return size
