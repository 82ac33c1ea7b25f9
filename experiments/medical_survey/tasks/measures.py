"""What every application reports: figures with intervals over cases, and rows of a table."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffax.evaluation import Figure, Interval, bootstrap_interval, bootstrap_statistic, psnr, ssim
from experiments.figures import as_rows

Value = float | Interval | np.ndarray  # one value, a value with its interval, or a value for each case
Found = Mapping[str, Mapping[str, Value]]  # by group ("" for the method itself) and name
RANGE = 2.0  # of images in [-1, 1]
AGREEMENT = {"name": "images in [-1, 1], data range 2; SSIM mirrors the edges"}


def report(found: Found, *, n_real: int, **about: Any) -> dict[str, Any]:
    """``{"figures", "rows"}`` of an evaluation; values by case become means with 95 % intervals.

    Values of fewer than ``n_real`` cases carry their own number.
    """
    figures = [
        _figure(f"{group}/{name}" if group else name, value, {"n_real": n_real, **about})
        for group, values in found.items()
        for name, value in values.items()
    ]
    means = {g: {k: _interval(v).mean for k, v in values.items()} for g, values in found.items()}
    return {"figures": figures, "rows": as_rows(means, "diffusion")}


def agreement(images: Float[np.ndarray | Array, "b h w c"], truth: np.ndarray) -> dict[str, np.ndarray]:
    """PSNR in dB and SSIM of each image in [-1, 1]; a perfect one counts as 100 dB."""
    found = psnr(jnp.asarray(images), jnp.asarray(truth), data_range=RANGE)
    alike = ssim(jnp.asarray(images), jnp.asarray(truth), data_range=RANGE, padding="reflect")
    return {"psnr": np.minimum(np.asarray(found), 100.0), "ssim": np.asarray(alike)}


def pooled(
    statistic: Callable[..., float], n: int, *arrays: Float[np.ndarray, "n ..."], resamples: int = 100
) -> Interval:
    """A figure of all cases' pixels together, with its interval over cases."""
    return bootstrap_statistic(lambda rows: statistic(*(a[rows] for a in arrays)), n, resamples=resamples)


def _interval(value: Value) -> Interval:
    if isinstance(value, Interval):
        return value
    if isinstance(value, np.ndarray) and value.ndim == 1 and np.isfinite(value).all():
        return bootstrap_interval(value)
    mean = float(np.mean(value))
    return Interval(mean, mean, mean)


def _figure(name: str, value: Value, about: Mapping[str, Any]) -> Figure:
    mean, low, high = _interval(value)
    if isinstance(value, np.ndarray) and value.ndim == 1 and len(value) < about["n_real"]:
        about = {**about, "n_real": len(value), "n_fake": len(value)}  # of some of the cases
    known = not isinstance(value, (int, float))
    return Figure(name, mean, **about, low=low if known else None, high=high if known else None)
