"""Radiographs by DiffDRR and nanodrr of a random volume, stored in ``drr_peers.npz``.

    python -m venv VENV && VENV/bin/pip install torch==2.13.0    # a CPU build, held by a constraint
    echo torch==2.13.0 > c.txt && VENV/bin/pip install -c c.txt torchio pandas fastcore roma einops jaxtyping
    VENV/bin/pip install --no-deps diffdrr==0.6.1 nanodrr==0.1.7
    VENV/bin/python tests/oracle/peers/make_drr_peers.py

Volume, C-arm and poses follow from numbers here, so that a test without torch makes them again. All images
are float32 as the peers give them, without flips: DiffDRR's default ``reverse_x_axis=True`` is our view from
the source. Its densities are set directly, as it would rescale Hounsfield units to [0, 1] by the volume.

DiffDRR's trilinear samples begin, for all rays alike, where the first of them enters the boxes of the voxels,
not half a voxel before, where interpolated values begin: with values in the outermost voxels it loses up to
0.3 of 65 mm in single pixels and 5e-4 of the image in the L2 norm. So its volume has none there.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

SHAPE, SPACING, CENTRE = (13, 10, 16), (7.0, 9.0, 5.0), (11.0, -23.0, 37.0)
SDD, SOD, PIXEL = 1020.0, 510.0, 9.0
DETECTORS = {"even": (24, 20), "odd": (23, 19)}
POSES = ((12.0, -9.0, 14.0), (-37.0, 21.0, -5.0), (95.0, 8.0, -20.0))  # yaw, pitch, roll: DiffDRR's "ZXY"
SAMPLES = {"diffdrr": 500, "nanodrr": 256}


def volume(rim: bool = True) -> np.ndarray:
    """Independent values in [0, 1], which favour no direction; without ``rim`` the outermost are zero."""
    values = np.random.RandomState(7).uniform(size=SHAPE).astype(np.float32)
    return values if rim else np.pad(values[1:-1, 1:-1, 1:-1], 1)


def affine() -> np.ndarray:
    """From voxels to a world in which the volume's middle is not the origin."""
    matrix = np.diag([*SPACING, 1.0])
    matrix[:3, 3] = np.array(CENTRE) - (np.array(SHAPE) - 1) / 2 * SPACING
    return matrix


def diffdrr_images(renderer: str, detector: tuple[int, int], rim: bool, **options: int) -> np.ndarray:
    """One image a pose, by DiffDRR, which moves the volume's middle to the origin."""
    import torch
    from diffdrr.data import read
    from diffdrr.drr import DRR
    from torchio import ScalarImage

    values = torch.from_numpy(volume(rim))
    subject = read(ScalarImage(tensor=values[None], affine=affine()), orientation="AP")
    subject.density.set_data(values[None])
    drr = DRR(subject, SDD, detector[0], PIXEL, width=detector[1], renderer=renderer)
    where = torch.tensor([[0.0, SOD, 0.0]])
    turned = {"parameterization": "euler_angles", "convention": "ZXY", "degrees": True}
    images = [drr(torch.tensor([p]), where, **turned, **options) for p in POSES]
    return torch.cat(images)[:, 0].numpy()


def nanodrr_images(detector: tuple[int, int], n_samples: int) -> np.ndarray:
    """One image a pose, by nanodrr, which turns about the volume's middle only if told so."""
    import torch
    from nanodrr.camera import make_rt_inv
    from nanodrr.data import Subject
    from nanodrr.drr import DRR
    from torchio import ScalarImage

    image = ScalarImage(tensor=torch.from_numpy(volume())[None], affine=affine())
    subject = Subject.from_images(image, convert_to_mu=False)
    drr = DRR.from_carm_intrinsics(SDD, PIXEL, PIXEL, 0.0, 0.0, *detector)
    where = torch.tensor([[0.0, SOD, 0.0]]).repeat(len(POSES), 1)
    at = make_rt_inv(torch.tensor(POSES), where, isocenter=subject.isocenter)
    return drr(subject, at, n_samples=n_samples, backend="torch")[:, 0].numpy()


def main() -> None:
    """Run every case and write the file."""
    arrays = {}
    for name, detector in DETECTORS.items():
        arrays[f"diffdrr_siddon_{name}"] = diffdrr_images("siddon", detector, rim=True)
        points = SAMPLES["diffdrr"]
        arrays[f"diffdrr_trilinear_{name}"] = diffdrr_images("trilinear", detector, False, n_points=points)
        arrays[f"nanodrr_{name}"] = nanodrr_images(detector, SAMPLES["nanodrr"])
    for name, images in arrays.items():
        print(name, images.shape, f"mean {images.mean():.3f}, largest {images.max():.3f}")
    packages = ("diffdrr", "nanodrr", "torch", "torchio", "numpy")
    provenance = {
        "made_by": "tests/oracle/peers/make_drr_peers.py",
        **{package: version(package) for package in packages},
        "python": sys.version.split()[0],
        "device": "cpu, float32",
    }
    meta = np.array(json.dumps({"provenance": provenance, "samples": SAMPLES}))
    np.savez_compressed(Path(__file__).with_name("drr_peers.npz"), meta=meta, **arrays)


if __name__ == "__main__":
    main()
