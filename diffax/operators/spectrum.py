"""An X-ray tube's spectrum and what water and bone attenuate of it, coarsely.

The spectrum is Kramers' law behind an aluminium filter, weighted by the energy that the detector takes in:
``S(E) ~ (E_max - E) exp(-mu_Al(E) d)``; no characteristic lines. Mass attenuation coefficients (with coherent
scattering) are those of Hubbell and Seltzer's tables, NIST SRD 126, between them interpolated by logarithms.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from diffax.checks import require

_ENERGIES = np.array([20.0, 30, 40, 50, 60, 80, 100, 150])  # keV
_WATER = np.array([0.8096, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505])  # cm^2 / g
_BONE = np.array([4.001, 1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480])  # cortical, ICRU-44
_ALUMINIUM = np.array([3.441, 1.128, 0.5685, 0.3681, 0.2778, 0.2018, 0.1704, 0.1378])
_DENSITY_ALUMINIUM = 2.699  # g / cm^3


class Spectrum(NamedTuple):
    """``share`` of the signal by energy, and ``mu`` of soft tissue and bone, per mm at water's density."""

    energies: Float64[np.ndarray, "energies"]
    share: Float64[np.ndarray, "energies"]
    mu: Float64[np.ndarray, "2 energies"]


def tube(kilovolts: float = 100.0, filtration: float = 3.0) -> Spectrum:
    """The spectrum of a tube behind so many mm of aluminium, in steps of 5 keV."""
    require(30 <= kilovolts <= 150, "kilovolts", kilovolts, "30 .. 150")
    energies = np.arange(22.5, kilovolts, 5.0)
    water, bone, aluminium = (_at(energies, table) for table in (_WATER, _BONE, _ALUMINIUM))
    signal = (kilovolts - energies) * np.exp(-aluminium * _DENSITY_ALUMINIUM * filtration / 10)
    return Spectrum(energies, signal / signal.sum(), np.stack([water, bone]) / 10)


def _at(energies: Float64[np.ndarray, "n"], table: Float64[np.ndarray, "m"]) -> Float64[np.ndarray, "n"]:
    return np.exp(np.interp(np.log(energies), np.log(_ENERGIES), np.log(table)))
