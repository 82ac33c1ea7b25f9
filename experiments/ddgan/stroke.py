"""From a rough drawing to an image: noise hides the strokes' detail, and the last steps put the data's in.

    python -m experiments.ddgan.stroke --image=drawing.png --workdir=runs/church --out=church.png

The drawing is cropped to a square, resized, noised to step ``--steps`` of the chain, and denoised from there:
more steps leave less of it. ``--out`` is a PNG (the drawing, then ``--n`` images in rows) or a folder, which
gets every image as a file too. Xiao et al. 2022 (arXiv:2112.07804), section 5.4; Meng et al. 2022
(SDEdit, arXiv:2108.01073).
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from diffax import checks, sample
from diffax.data import read_image
from diffax.io import save_png, tile
from diffax.processes import normal, perturb
from diffax.types import Keys, Params
from experiments import main, modes
from experiments.ddgan import experiment
from experiments.ddgan.method import Method
from experiments.ddgan.sampling import denoiser
from experiments.progress import say
from experiments.workdir import read_config


@partial(jax.jit, static_argnames=("made", "steps"))
def redraw(
    made: Method, params: Params, drawing: Float[Array, "h w c"], keys: Keys, steps: int
) -> Float[Array, "n h w c"]:
    """Images from one drawing, one a key: ``x_t ~ q(x_t | drawing)`` at steps / T, then the model's steps.

    Raises ValueError for steps outside 1 .. T.
    """
    checks.require(1 <= steps <= made.steps, "steps", steps, f"1 .. {made.steps}")
    x0 = jnp.broadcast_to(drawing, (len(keys), *drawing.shape))
    t = jnp.full(len(keys), steps / made.steps)
    start = perturb(made.process, x0, normal(keys, drawing.shape), t)
    grid = made.grid[made.steps - steps :]
    return sample(keys, denoiser(made, params), made.process, made.sampler, grid, x_init=start).x


def draw(config: ConfigDict, image: str, workdir: str, n: int, steps: int, seed: int) -> tuple[Array, Array]:
    """The drawing as the model sees it, and n images from it."""
    checks.require(config.data.source != "gaussians", "workdir", workdir, "a run on images")
    checks.require(config.objective == "gan", "workdir", workdir, "a run with objective 'gan'")
    checks.require(n >= 1, "n", n, "at least 1")
    made, shape = experiment.rebuild(config)
    drawing = read_image(image, size=shape[0], channels=shape[-1])
    checks.require(drawing.shape == shape, "workdir", workdir, "a run on square images")
    _, state = modes.load(config, Path(workdir))
    params = state.nets["generator"].averaged(config.sample.ema)
    keys = jax.random.split(jax.random.key(seed), n)
    return drawing, redraw(made, params, drawing, keys, steps or max(1, made.steps // 2))


def write(out: Path, drawing: np.ndarray, images: np.ndarray) -> None:
    """A sheet, and in a folder each image too."""
    sheet = tile(np.clip(np.concatenate([drawing[None], images]), -1, 1), zoom=max(1, 64 // len(drawing)))
    if out.suffix.lower() == ".png":
        out.parent.mkdir(parents=True, exist_ok=True)
        save_png(out, sheet)
        return
    out.mkdir(parents=True, exist_ok=True)
    save_png(out / "sheet.png", sheet)
    for index, image in enumerate(images):
        save_png(out / f"{index:03d}.png", np.clip(image, -1, 1))


def program(argv: Sequence[str]) -> None:
    """Redraw what the flags name."""
    values = flags.FLAGS
    for name in ("image", "workdir", "out"):
        checks.require(bool(values[name].value), f"--{name}", values[name].value, "a path")
    main.start_jax()
    config = read_config(Path(values["workdir"].value))
    n, steps, seed = (values[name].value for name in ("n", "steps", "seed"))
    drawing, images = draw(config, values["image"].value, values["workdir"].value, n, steps, seed)
    write(Path(values["out"].value), np.asarray(drawing), np.asarray(images))
    say(f"wrote {values['out'].value}", sys.stdout)


if __name__ == "__main__":
    flags.DEFINE_string("image", "", "the drawing: a PNG, JPEG or TIFF")
    flags.DEFINE_string("workdir", "", "folder of a run of this experiment on images")
    flags.DEFINE_string("out", "", "a PNG, or a folder")
    flags.DEFINE_integer("n", 8, "images to draw")
    flags.DEFINE_integer("steps", 0, "of the chain to go through; 0 for half of them")
    flags.DEFINE_integer("seed", 0, "of the noise")
    sys.exit(main.run(program))
