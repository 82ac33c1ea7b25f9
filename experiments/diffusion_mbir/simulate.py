"""Measurements of a volume, as a scanner would make them.

    python -m experiments.diffusion_mbir.simulate --volume=ct.nii.gz --task=sparse_view --views=8 --size=64 --out=scan.npz
    python -m experiments.diffusion_mbir.simulate --volume=DICOM_DIR --task=limited_angle --out=scan.npz
    python -m experiments.diffusion_mbir.simulate --volume=mr.nii.gz --task=mri --acceleration=4 --out=scan.npz
    python -m experiments.diffusion_mbir.simulate --volume=torso:0 --task=sparse_view --views=4 --out=scan.npz

CT is parallel beams over each axial slice, the detector as wide as the slice's diagonal. Values are
clipped to ``--value_range`` (CT: -1000 .. 1000 HU) and mapped to [0, 1], in which reconstruction works.
"""  # noqa: E501

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from diffax import checks
from diffax.operators import true_acceleration
from experiments import main, sources
from experiments.diffusion_mbir import scan
from experiments.progress import say

_ARC = {"sparse_view": 180.0, "limited_angle": 90.0}
_VIEWS = {"sparse_view": 8, "limited_angle": 60}


def program(argv: Sequence[str]) -> None:
    """Read, measure, write."""
    values = {name: flag.value for name, flag in flags.FLAGS.__flags.items()}
    for name in ("volume", "out"):
        checks.require(bool(values[name]), f"--{name}", values[name], "a path")
    checks.require_one_of("--task", values["task"], scan.MODALITIES)
    main.start_jax()
    name, out, size = str(values["volume"]), Path(values["out"]), int(values["size"])
    volume = sources.open_volume(name, size, values["series"] or None)
    value_range = sources.choose_range(values["value_range"], volume, scan.MODALITIES[values["task"]])
    volume = sources.fit(volume, size, value_range, name)
    images = scan.as_images(volume, value_range)
    geometry = make_geometry(values, images.shape)
    measured = scan.simulate(
        geometry, images, volume.affine, value_range,
        noise=values["noise"], counts=values["counts"], seed=values["seed"], source=name,
    )  # fmt: skip
    scan.write_scan(out, measured)
    say(f"wrote {out}: {describe(measured)}", sys.stdout)


def make_geometry(values: dict[str, Any], shape: Any) -> scan.Geometry:
    """What the flags ask for, with each task's own numbers where they do not say."""
    task = values["task"]
    views, arc = values["views"], values["arc"]
    return scan.make_geometry(
        task, tuple(shape),
        views=_VIEWS.get(task, 0) if views is None else views,
        arc=_ARC.get(task, 0.0) if arc is None else arc,
        acceleration=values["acceleration"], mask_kind=values["mask"], centre=values["centre"],
        seed=values["seed"],
    )  # fmt: skip


def describe(measured: scan.Scan) -> str:
    """What was measured, in a few words."""
    geometry = measured.geometry
    if geometry.mask is not None:
        detail = f"acceleration {true_acceleration(geometry.mask):.2f}"
    else:
        assert geometry.angles is not None
        detail = f"{len(geometry.angles)} views of {geometry.detectors} bins"
    return f"{geometry.task} of {geometry.shape}, {detail}, noise {measured.noise_std:.4g}"


if __name__ == "__main__":
    flags.DEFINE_string("volume", "", "a NIfTI file, a folder of DICOM slices, or torso:N")
    flags.DEFINE_string("out", "", "the scan, a .npz")
    flags.DEFINE_string("task", "sparse_view", "sparse_view, limited_angle or mri")
    flags.DEFINE_integer("views", None, "of CT (8; 60 for limited_angle)")
    flags.DEFINE_float("arc", None, "degrees that the views of CT cover (180; 90 for limited_angle)")
    flags.DEFINE_float("acceleration", 4.0, "of MRI")
    flags.DEFINE_string(
        "mask", "uniform1d", "uniform1d, equispaced1d, gaussian1d, uniform2d, gaussian2d, poisson2d"
    )
    flags.DEFINE_float("centre", 0.08, "share of k-space about its origin that is always measured")
    flags.DEFINE_float("noise", 0.0, "standard deviation, relative to the largest (CT) or rms (MRI) value")
    flags.DEFINE_float("counts", 0.0, "photons a bin without the patient: Poisson noise instead (CT)")
    flags.DEFINE_integer("size", 0, "side of the axial slices, resized; 0 keeps them")
    flags.DEFINE_string("value_range", "", "low,high that map to 0 and 1")
    flags.DEFINE_string("series", "", "SeriesInstanceUID, for a folder of several")
    flags.DEFINE_integer("seed", 0, "of noise and mask")
    sys.exit(main.run(program))
