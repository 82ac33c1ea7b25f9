r"""From Hounsfield units to attenuation, and from path lengths to what a detector shows.

Monochromatic: ``mu = mu_water (1 + HU / 1000)``, never below 0, and ``I = I0 exp(-integral of mu dl)``
(Beer-Lambert). Polychromatic: ``I = sum_E S(E) exp(-sum_m mu_m(E) L_m)``, L_m the path through material m.
Attenuation is per mm.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from diffax.checks import require
from diffax.types import Scalar

MU_WATER = 0.0192  # per mm, at about 70 keV
MU_BONE = 0.0573  # the same, for cortical bone


def hu_to_mu(hu: Float[Array, "..."], mu_water: Scalar = MU_WATER) -> Float[Array, "..."]:
    """``mu_water (1 + HU / 1000)``, at least 0: air and less attenuate nothing."""
    return jnp.maximum(mu_water * (1 + hu / 1000), 0.0)


def hu_to_mu_with_bone(
    hu: Float[Array, "..."],
    mu_water: Scalar = MU_WATER,
    mu_bone: Scalar = MU_BONE,
    hu_bone: Scalar = 1000.0,
) -> Float[Array, "..."]:
    """As :func:`hu_to_mu` up to water, then along the line to bone, whose share of calcium attenuates more.

    ``mu_water + (mu_bone - mu_water) HU / hu_bone`` above 0 HU.
    """
    return jnp.where(hu <= 0, hu_to_mu(hu, mu_water), mu_water + (mu_bone - mu_water) * hu / hu_bone)


def split_materials(
    hu: Float[Array, "x y z"], soft: tuple[float, float] = (-800.0, 250.0)
) -> Float[Array, "2 x y z"]:
    """Relative densities of soft tissue (with fat) and bone: HU in ``soft`` are the one, above the other.

    Density is ``1 + HU / 1000``, at least 0.
    """
    low, high = soft
    require(low < high, "soft", soft, "(low, high) with low < high")
    density = jnp.maximum(1 + hu / 1000, 0.0)
    return jnp.stack([density * ((hu > low) & (hu <= high)), density * (hu > high)])


def transmission(lines: Float[Array, "..."]) -> Float[Array, "..."]:
    """``I / I0 = exp(-p)``."""
    return jnp.exp(-lines)


def polychromatic(
    paths: Float[Array, "materials ..."],
    mu: Float[Array, "materials energies"],
    spectrum: Float[Array, "energies"],
) -> Float[Array, "..."]:
    """``sum_E S(E) exp(-sum_m mu_m(E) L_m) / sum_E S(E)``, for paths in mm times relative density."""
    exponent = jnp.tensordot(mu.T, paths, axes=1)
    return jnp.tensordot(spectrum / jnp.sum(spectrum), jnp.exp(-exponent), axes=1)


def photon_noise(
    key: Key[Array, ""], transmitted: Float[Array, "..."], photons: Scalar = 1e4
) -> Float[Array, "..."]:
    """Transmission counted by a detector that would get ``photons`` a pixel without a patient: Poisson."""
    require(jnp.ndim(photons) > 0 or bool(photons > 0), "photons", photons, "above 0")
    counts = jax.random.poisson(key, jnp.asarray(photons) * transmitted)
    return counts / jnp.asarray(photons, jnp.float32)


def lines_from(transmitted: Float[Array, "..."], floor: Scalar = 1e-6) -> Float[Array, "..."]:
    """``-ln(I / I0)``; less than ``floor`` counts as ``floor``."""
    return -jnp.log(jnp.maximum(transmitted, floor))


def display(lines: Float[Array, "*b h w"], low: Scalar = 0.0, high: Scalar = 1.0) -> Float[Array, "*b h w"]:
    """Radiographs in [0, 1], bone bright: line integrals between two of their image's quantiles."""
    flat = lines.reshape(*lines.shape[:-2], -1)
    bottom, top = (jnp.quantile(flat, q, axis=-1)[..., None, None] for q in (low, high))
    return jnp.clip((lines - bottom) / jnp.maximum(top - bottom, 1e-12), 0, 1)
