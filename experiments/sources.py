"""Volumes that programs are given: files, folders of DICOM, and the procedural ones."""

from pathlib import Path

from diffax import checks
from diffax.data import Volume, fit_volume, held_out_torso, read_volume
from diffax.data.torsos import HU_RANGE
from diffax.io import require_square_pixels, require_straight

TORSO = "torso:"


def open_volume(name: str, size: int = 0, series: str | None = None) -> Volume:
    """A NIfTI file, a folder of DICOM slices, or ``torso:N``, a held-out procedural body of ``size`` (64).

    Raises ``ValueError`` for what cannot be read, and for a tilted gantry.
    """
    if name.startswith(TORSO):
        number = name.removeprefix(TORSO)
        checks.require(number.isdigit(), "--volume", name, "torso:N with N = 0, 1, ...")
        return held_out_torso(int(number), size or 64)
    volume = read_volume(Path(name), series=series)
    require_straight(volume, name)
    return volume


def choose_range(asked: str, volume: Volume, modality: str) -> tuple[float, float]:
    """ "low,high", or the modality's own: -1000 .. 1000 HU for CT, 0 to the largest voxel for MR."""
    if asked:
        parts = asked.strip("() ").split(",")
        try:
            low, high = (float(part) for part in parts)
        except ValueError:
            raise ValueError(f"--value_range: got {asked!r}, allowed: low,high") from None
        checks.require(low < high, "--value_range", asked, "low,high with low < high")
        return low, high
    if modality == "ct":
        return HU_RANGE
    high = float(volume.array.max())
    checks.require(high > 0, "--volume: largest voxel", high, "above 0 (or give --value_range)")
    return 0.0, high


def fit(volume: Volume, size: int, value_range: tuple[float, float], name: str) -> Volume:
    """Square axial slices of ``size``; at size 0 those of the volume, which must be square then."""
    rows, columns = volume.array.shape[1], volume.array.shape[0]
    if size in (0, rows) and rows == columns:
        require_square_pixels(volume, name)
        return volume
    checks.require(size > 0, f"{name}: size of axial slices", (rows, columns), "square ones, or --size=N")
    return fit_volume(volume, value_range, size)
