"""Radiographs from a CT volume (DRRs), from any angles.

    python -m experiments.radrotator.render --volume=ct.nii.gz --angles="ap;left;10,-5,0" --out=views
    python -m experiments.radrotator.render --volume=DICOM_DIR --angles="-15:15:5,-15:15:5,0" --out=sweep
    python -m experiments.radrotator.render --volume=torso:0 --angles="0:350:10,0,0" --film=mp4 --out=turn

Angles are degrees of yaw, pitch and roll (``diffax.operators.c_arm`` has the picture); a range holds its
end, and several ranges every combination. Into the new folder ``--out`` come ``view-0000.png``, ... with
``views.csv``, ``sheet.png``, ``film.gif`` (or .mp4), the line integrals and ``result.json``. All pictures
share one scale of greys.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Float

from diffax import checks
from diffax.data import Volume
from diffax.evaluation import write_result
from diffax.io import new_folder, to_uint8, write_atomically, write_nifti
from diffax.operators import CArm, c_arm, ray_casting
from experiments import devices, main
from experiments.figures import as_figures
from experiments.progress import Counted, say
from experiments.radrotator import angles, casting, placing
from experiments.radrotator.series import check_film, write_series
from experiments.sources import open_volume

Lines = Float[np.ndarray, "n rows columns"]
IMAGES, STACKS = ("display", "transmission", "lines"), ("npz", "nifti", "none")
_MOST_PIXELS = 2**29  # of all views together: 2 GiB
_HIGH = 0.999  # the quantile that is shown white


def program(argv: Sequence[str]) -> None:
    """Read, render, write."""
    values = {name: flag.value for name, flag in flags.FLAGS.__flags.items()}
    views = check(values)
    main.start_jax()
    volume = open_volume(str(values["volume"]), series=values["series"] or None)
    body, isocentre = placing.outline(volume), isocentre_of(values["isocentre"], volume)
    arm = placing.place(arm_of(values), body, views, isocentre, sod_of(values["sod"]), values["spacing"])
    if volume.array.min() >= 0:
        say(f"warning: no voxel of {values['volume']} is below 0: is it CT, in Hounsfield units?")
    physics = casting.Physics(
        values["method"], values["spectrum"] == "poly", values["photons"], values["seed"]
    )
    found = casting.cast(volume, arm, views, isocentre, physics, Counted("rendered"))
    scale = scale_of(found.lines, values["image"], values["window"])
    with new_folder(values["out"]) as folder:
        frames = np.stack([frame_of(each, scale, values["image"]) for each in found.lines])
        write_series(folder, frames, views, film=values["film"], fps=values["fps"])
        write_lines(folder, found.lines, views, arm, isocentre, values["lines"])
        report(folder, found, arm, isocentre, scale, values)
    say(f"wrote {values['out']}, {len(views)} view{'s' * (len(views) > 1)}", sys.stdout)


def check(values: dict[str, Any]) -> list[angles.Angles]:
    """The views; ``ValueError`` for flags that cannot be, before anything long begins."""
    for name in ("volume", "out"):
        checks.require(bool(values[name]), f"--{name}", values[name], "a path")
    known = {"method": ray_casting.PROJECTORS, "image": IMAGES, "lines": STACKS,
             "spectrum": ("mono", "poly")}  # fmt: skip
    for name, options in known.items():
        checks.require_one_of(f"--{name}", values[name], options)
    lowest = {"size": 2, "sdd": 1e-3, "spacing": 0, "photons": 0}
    for name, low in lowest.items():
        good = low <= values[name] < np.inf
        checks.require(bool(good), f"--{name}", values[name], f"a finite number, at least {low:g}")
    out = Path(values["out"])
    free = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    checks.require(free, "--out", str(out), "a new or empty folder")
    views = angles.parse_angles(values["angles"])
    count = len(views) * values["size"] ** 2
    checks.require(count <= _MOST_PIXELS, "--angles, --size: pixels", count, f"at most {_MOST_PIXELS}")
    if values["window"]:
        scale_of(np.zeros((1, 1, 1)), values["image"], values["window"])
    check_film(values["film"], values["fps"])
    return views


def arm_of(values: dict[str, Any]) -> CArm:
    """The C-arm of the flags, still without its place."""
    return CArm(sdd=values["sdd"], shape=(values["size"], values["size"]))


def sod_of(text: str) -> float | None:
    """A distance, ``inf`` for a parallel beam, None where none is given."""
    if not text:
        return None
    try:
        sod = float(text)
    except ValueError:
        sod = np.nan
    checks.require(sod > 0, "--sod", text, "a distance above 0 mm, or inf for a parallel beam")
    return sod


def isocentre_of(text: str, volume: Volume) -> tuple[float, float, float]:
    """What the C-arm turns about, in mm of the world; the volume's middle unless given."""
    i, j, k = volume.array.shape
    x, y, z = (
        angles.parse_numbers("--isocentre", text, 3) if text else c_arm.centre_of((i, j, k), volume.affine)
    )
    return x, y, z


def scale_of(lines: Lines, image: str, window: str) -> tuple[float, float]:
    """What is shown black and white, in line integrals (or of transmission), for all views alike."""
    if window:
        bottom, top = angles.parse_numbers("--window", window, 2)
        checks.require(bottom < top, "--window", window, "low,high with low < high")
        return bottom, top
    if image == "transmission":
        return 0.0, 1.0
    if image == "lines":
        return 0.0, float(lines.max()) or 1.0
    low = float(lines.min())
    high = max(float(np.quantile(each, _HIGH)) for each in lines)
    return low, high if high > low else low + 1.0


def frame_of(lines: Float[np.ndarray, "rows columns"], scale: tuple[float, float], image: str) -> Any:
    """A view as it is looked at, uint8."""
    shown = np.exp(-lines) if image == "transmission" else lines
    return to_uint8(2 * (shown - scale[0]) / (scale[1] - scale[0]) - 1)


def write_lines(
    folder: Path,
    lines: Lines,
    views: list[angles.Angles],
    arm: CArm,
    isocentre: tuple[float, float, float],
    kind: str,
) -> None:
    """The line integrals with what they were taken by; as NIfTI a stack of views along y, upright from the
    front."""  # fmt: skip
    if kind == "nifti":
        affine = np.array([[-arm.spacing, 0, 0, 0], [0, 0, 1, 0], [0, -arm.spacing, 0, 0], [0, 0, 0, 1.0]])
        affine[[0, 2], 3] = (np.array(arm.shape)[::-1] - 1) / 2 * arm.spacing
        stack = Volume(np.ascontiguousarray(lines.transpose(2, 1, 0)), affine)
        write_nifti(folder / "lines.nii.gz", stack, description="line integrals; columns, rows, views")
    if kind == "npz":
        about = {"sdd": arm.sdd, "sod": arm.sod, "spacing": arm.spacing, "isocentre": isocentre}
        arrays: dict[str, Any] = {"lines": lines, "angles": np.array(views), "unit": "1", **about}
        write_atomically(folder / "lines.npz", lambda temporary: np.savez_compressed(temporary, **arrays))


def report(
    folder: Path,
    found: casting.Cast,
    arm: CArm,
    isocentre: tuple[float, float, float],
    scale: tuple[float, float],
    values: dict[str, Any],
) -> None:
    """``result.json``."""
    figures = {
        "views": float(len(found.lines)),
        "seconds_per_view": found.seconds_per_view,
        "seconds_compiling": found.seconds_compiling,
        "compilations": float(found.compilations),
        "peak_line_integral": float(found.lines.max()),
    }
    geometry = {"sdd": arm.sdd, "sod": arm.sod if np.isfinite(arm.sod) else "inf", "spacing": arm.spacing,
                "shape": arm.shape, "isocentre": isocentre}  # fmt: skip
    asked = {name: values[name] for name in ("angles", "method", "spectrum", "photons", "image")}
    notes = {"source": str(values["volume"]), **asked, "black_and_white": scale, "geometry": geometry}
    rows = as_figures({"": figures}, n_fake=len(found.lines), seed=values["seed"])
    write_result(folder / "result.json", rows, notes | devices.environment())


if __name__ == "__main__":
    flags.DEFINE_string("volume", "", "CT: a NIfTI file, a folder of DICOM slices, or torso:N")
    flags.DEFINE_string(
        "angles", "ap", "ap, pa, left, right or yaw,pitch,roll, of numbers or start:stop:step"
    )
    flags.DEFINE_string("out", "", "a new or empty folder")
    flags.DEFINE_integer("size", 256, "pixels of a side of the detector")
    flags.DEFINE_float("sdd", 1020.0, "mm from the source to the detector")
    flags.DEFINE_string("sod", "", "mm from the source to the isocentre (half of sdd); inf: a parallel beam")
    flags.DEFINE_float("spacing", 0.0, "mm between pixels; 0 shows the whole body in every view")
    flags.DEFINE_string("isocentre", "", "x,y,z in mm of the volume's world (its middle)")
    flags.DEFINE_string("method", "joseph", "joseph, siddon or trilinear")
    flags.DEFINE_string("series", "", "SeriesInstanceUID, for a folder of several")
    flags.DEFINE_string("image", "display", "display or lines (bone bright), or transmission (bone dark)")
    flags.DEFINE_string("window", "", "low,high that are black and white: line integrals, or transmission")
    flags.DEFINE_string("spectrum", "mono", "mono (one energy), or poly (a tube at 100 kV)")
    flags.DEFINE_float("photons", 0.0, "a pixel without a patient: Poisson noise; 0 for none")
    flags.DEFINE_integer("seed", 0, "of the noise")
    flags.DEFINE_string("film", "gif", "gif, mp4 or none")
    flags.DEFINE_float("fps", 10.0, "frames a second of the film")
    flags.DEFINE_string("lines", "npz", "line integrals as npz, nifti or none")
    sys.exit(main.run(program))
