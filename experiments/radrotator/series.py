"""Views as files: numbered pictures with a table of their angles, a contact sheet, a film."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtyping import UInt8
from numpy import ndarray

from diffax import checks
from diffax.io import save_gif, save_mp4
from experiments.radrotator.angles import Angles, caption
from experiments.radrotator.sheets import contact_sheet

FILMS = ("gif", "mp4", "none")
TITLE = "yaw, pitch, roll in degrees"


def check_film(film: str, fps: float) -> None:
    """``ValueError`` for a kind of film that is not known, or needs a package that is absent."""
    checks.require_one_of("--film", film, FILMS)
    checks.require(0 < fps <= 50, "--fps", fps, "above 0, at most 50")
    if film == "mp4":
        try:
            import imageio_ffmpeg  # noqa: F401
        except ImportError:
            raise ValueError("--film: got 'mp4', allowed: gif, or pip install \"diffax[film]\"") from None


def write_series(
    folder: Path,
    frames: UInt8[ndarray, "n rows columns"],
    views: Sequence[Angles],
    *,
    film: str = "gif",
    fps: float = 10.0,
    title: str = TITLE,
) -> None:
    """``view-0000.png``, ... with ``views.csv``, ``sheet.png``, and ``film.gif`` (or .mp4) of several."""
    from PIL import Image

    names = [f"view-{number:04d}.png" for number in range(len(views))]
    for name, frame in zip(names, frames, strict=True):
        Image.fromarray(frame).save(folder / name)
    with (folder / "views.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("file", *Angles._fields))
        table.writerows((name, *view) for name, view in zip(names, views, strict=True))
    contact_sheet(folder / "sheet.png", frames, [caption(view) for view in views], title)
    write_film(folder, frames, film, fps)


def write_film(folder: Path, frames: UInt8[ndarray, "n rows columns"], film: str, fps: float) -> None:
    """``film.gif`` or ``film.mp4``, of more than one frame."""
    save: dict[str, Callable[..., None]] = {"gif": save_gif, "mp4": save_mp4}
    if len(frames) > 1 and film in save:
        save[film](folder / f"film.{film}", frames, fps)
