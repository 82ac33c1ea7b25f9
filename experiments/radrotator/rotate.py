"""A radiograph from another angle, by a trained network.

    python -m experiments.radrotator.rotate --image=xray.png --yaw=10 --pitch=-5 --workdir=RUN --out=view.png
    python -m experiments.radrotator.rotate --image=xray.dcm --sweep=grid --workdir=RUN --out=FOLDER
    python -m experiments.radrotator.rotate --serve --workdir=RUN

The image is PNG, TIFF, JPEG or DICOM, of one frame, grey. Angles are degrees by which the C-arm turns from
where the radiograph was taken: yaw about the patient's long axis (to the patient's left), pitch (towards the
head), roll about the beam. ``--out`` is a .png for one view, or a new folder, which also gets the view beside
the original, and with ``--seeds`` the mean of several draws and where they differ. ``--sweep=grid`` writes
every view of a grid (``--step``) over the trained range, ``--sweep=film`` a round trip. RUN may be a
student's folder: one call of the network a view. ``--serve`` opens a page with sliders, for this machine
alone.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Float

from diffax import checks
from diffax.data import read_radiograph
from diffax.evaluation import write_result
from diffax.io import new_folder, save_png
from experiments import devices, main
from experiments.figures import as_figures
from experiments.progress import Counted, say
from experiments.radrotator import angles, serve
from experiments.radrotator.radiographs import Given, frame_of, given_of, heat
from experiments.radrotator.series import check_film, write_film, write_series
from experiments.radrotator.sheets import contact_sheet
from experiments.radrotator.turning import Turner, load_turner

SWEEPS = ("", "grid", "film")
_FRAMES = 72  # of a film
_MOST = 10_000  # views of a grid


def program(argv: Sequence[str]) -> None:
    """Read, turn, write; or serve."""
    values = {name: flag.value for name, flag in flags.FLAGS.__flags.items()}
    check(values)
    main.start_jax()
    given = read(values) if values["image"] else None
    turner = load_turner(values["workdir"], values["checkpoint"], 16 if values["sweep"] else 1)
    if values["serve"]:
        serve.serve(turner, given, values["port"])
        return
    assert given is not None
    views = asked(values, turner.limit)
    outside = [view for view in views if max(map(abs, view)) > turner.limit + 1e-6]
    if outside:
        say(
            f"warning: {len(outside)} of {len(views)} views are outside the trained ±{turner.limit:g} degrees"
        )
    draws = turned(turner, given, views, values["seed"], values["seeds"])
    write(values, turner, given, views, draws)
    say(f"wrote {values['out']}", sys.stdout)


def check(values: dict[str, Any]) -> None:
    """``ValueError`` for flags that cannot be."""
    needed = ("workdir",) if values["serve"] else ("image", "workdir", "out")
    for name in needed:
        checks.require(bool(values[name]), f"--{name}", values[name], "a path")
    for name in angles.Angles._fields:
        checks.require(bool(np.isfinite(values[name])), f"--{name}", values[name], "finite degrees")
    checks.require_one_of("--sweep", values["sweep"], SWEEPS)
    checks.require(0 < values["step"] < np.inf, "--step", values["step"], "degrees above 0")
    checks.require(1 <= values["seeds"] <= 64, "--seeds", values["seeds"], "1 .. 64")
    checks.require(32 <= values["size"] <= 4096, "--size", values["size"], "32 .. 4096 pixels")
    checks.require(0 <= values["port"] < 65536, "--port", values["port"], "0 (any free one) .. 65535")
    check_film(values["film"], values["fps"])
    if not values["serve"]:
        check_out(Path(values["out"]), values)


def check_out(out: Path, values: dict[str, Any]) -> None:
    """A .png for a single view, or a new or empty folder."""
    if out.suffix.lower() == ".png":
        alone = not values["sweep"] and values["seeds"] == 1 and not out.is_dir()
        checks.require(alone, "--out", str(out), "a folder, for --sweep and --seeds")
        return
    free = not out.suffix and (not out.exists() or (out.is_dir() and not any(out.iterdir())))
    checks.require(free, "--out", str(out), "a .png, or a new or empty folder")


def read(values: dict[str, Any]) -> Given:
    """The radiograph of the flags."""
    window = angles.parse_numbers("--window", values["window"], 2) if values["window"] else None
    if window:
        checks.require(window[0] < window[1], "--window", values["window"], "low,high with low < high")
    found = read_radiograph(values["image"], window and (window[0], window[1]), invert=values["invert"])
    return given_of(found, values["size"])


def asked(values: dict[str, Any], limit: float) -> list[angles.Angles]:
    """The angles of the flags: one, a grid, or a round trip about each axis."""
    if values["sweep"] == "grid":
        count = int(limit / values["step"] + 1e-6)
        checks.require((2 * count + 1) ** 3 <= _MOST, "--step", values["step"], f"at most {_MOST} views")
        axis = values["step"] * np.arange(-count, count + 1)
        return [angles.Angles(*map(float, (x, y, z))) for x in axis for y in axis for z in axis]
    if values["sweep"] == "film":
        way = limit * np.sin(np.linspace(0, 2 * np.pi, _FRAMES // 3, endpoint=False))
        still = np.zeros_like(way)
        turns = ((way, still, still), (still, way, still), (still, still, way))
        return [angles.Angles(*map(float, each)) for turn in turns for each in np.stack(turn, axis=1)]
    return [angles.Angles(values["yaw"], values["pitch"], values["roll"])]


def turned(
    turner: Turner, given: Given, views: list[angles.Angles], seed: int, seeds: int
) -> Float[np.ndarray, "seeds n h w"]:
    """Every view under every seed, in [0, 1]."""
    square, progress = given.square(turner.size), Counted("turned")
    found, step = [], 64
    for number in range(seeds):
        parts = []
        for start in range(0, len(views), step):
            parts.append(turner.views(square, np.array(views[start : start + step]), seed + number))
            progress(number * len(views) + min(start + step, len(views)), seeds * len(views))
        found.append(np.concatenate(parts))
    return np.stack(found)


def write(
    values: dict[str, Any],
    turner: Turner,
    given: Given,
    views: list[angles.Angles],
    draws: Float[np.ndarray, "seeds n h w"],
) -> None:
    """One picture, or a folder of what was asked for."""
    frames = np.stack([frame_of(given, view, at, turner.limit) for view, at in zip(draws[0], views)])
    out = Path(values["out"])
    if out.suffix.lower() == ".png":
        save_png(out, frames[0][..., None] / 127.5 - 1)
        return
    with new_folder(out) as folder:
        if values["sweep"] == "film":
            write_film(folder, frames, values["film"], values["fps"])
        elif values["sweep"]:
            write_series(folder, frames, views, film=values["film"], fps=values["fps"])
        else:
            write_single(folder, given, views[0], frames[0], draws[:, 0], turner.limit)
        report(folder, values, turner, given, views, draws)


def write_single(
    folder: Path,
    given: Given,
    at: angles.Angles,
    frame: np.ndarray,
    draws: Float[np.ndarray, "seeds h w"],
    limit: float,
) -> None:
    """The view, alone and beside the original; of several draws their mean and spread as well."""
    save_png(folder / "view.png", frame[..., None] / 127.5 - 1)
    original = given.shown()
    contact_sheet(folder / "beside.png", np.stack([original, frame]), ["given", angles.caption(at)])
    if len(draws) > 1:
        mean = frame_of(given, draws.mean(axis=0), at, limit)
        save_png(folder / "mean.png", mean[..., None] / 127.5 - 1)
        save_png(folder / "uncertainty.png", heat(given, draws.std(axis=0)) / 127.5 - 1)


def report(
    folder: Path,
    values: dict[str, Any],
    turner: Turner,
    given: Given,
    views: list[angles.Angles],
    draws: Float[np.ndarray, "seeds n h w"],
) -> None:
    """``result.json``: what was made of which file, and how far apart the draws are."""
    figures = {"views": float(len(views)), "seeds": float(len(draws))}
    if len(draws) > 1:
        figures["mean_spread"] = float(draws.std(axis=0).mean())
    notes = {
        "image": Path(values["image"]).name, "window": given.window, "how": given.how,
        "inverted": given.inverted, "network_pixels": turner.size, "trained_limit_degrees": turner.limit,
        "outside": sum(max(map(abs, view)) > turner.limit + 1e-6 for view in views),
        "angles": list(views[0]) if len(views) == 1 else values["sweep"], "seed": values["seed"],
        "objective": turner.config.objective,
    }  # fmt: skip
    rows = as_figures({"": figures}, n_fake=len(views), seed=values["seed"])
    write_result(folder / "result.json", rows, notes | devices.environment())


if __name__ == "__main__":
    flags.DEFINE_string("image", "", "a radiograph: PNG, TIFF, JPEG or DICOM")
    flags.DEFINE_float("yaw", 0.0, "degrees about the patient's long axis, to the patient's left")
    flags.DEFINE_float("pitch", 0.0, "degrees towards the head")
    flags.DEFINE_float("roll", 0.0, "degrees about the beam")
    flags.DEFINE_string("workdir", "", "folder of a trained run, or of a student")
    flags.DEFINE_string("checkpoint", "newest", "newest, best, or a step")
    flags.DEFINE_string("out", "", "a .png, or a new or empty folder")
    flags.DEFINE_string("sweep", "", "grid: every view over the trained range; film: a round trip")
    flags.DEFINE_float("step", 5.0, "degrees between views of a grid")
    flags.DEFINE_string("film", "gif", "gif, mp4 or none")
    flags.DEFINE_float("fps", 10.0, "frames a second of the film")
    flags.DEFINE_string("window", "", "low,high of the file's values that are black and white")
    flags.DEFINE_bool("invert", False, "the file shows bone dark")
    flags.DEFINE_integer("size", 256, "pixels of the longer side of pictures that are written")
    flags.DEFINE_integer("seed", 0, "of the noise")
    flags.DEFINE_integer("seeds", 1, "draws, whose mean and spread are written")
    flags.DEFINE_bool("serve", False, "open a page with sliders on this machine")
    flags.DEFINE_integer("port", 8765, "of the page; 0 for any free one")
    sys.exit(main.run(program))
