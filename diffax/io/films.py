"""Films from frames: GIF (``pillow``) and MP4 (``imageio-ffmpeg``, ``pip install "diffax[film]"``)."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from diffax.checks import require
from diffax.data.optional import optional_import
from diffax.io.files import write_atomically

Frames = Sequence[Shaped[np.ndarray, "..."]] | Shaped[np.ndarray, "n ..."]  # uint8, grey or RGB


def save_gif(path: str | Path, frames: Frames, fps: int | float = 10.0) -> None:
    """Frames, grey or RGB, as a GIF that repeats for ever, atomically.

    Grey values stay as they are; colours become 256. Equal neighbours are stored as one frame that lasts as
    long. GIF counts in hundredths of a second, and viewers slow down above 50 frames a second.
    """
    pil = optional_import("PIL.Image")
    _check(frames)
    require(0 < fps <= 50, "fps", fps, "above 0, at most 50")
    first, *others = (pil.fromarray(np.asarray(frame)) for frame in frames)
    write_atomically(
        path,
        lambda temporary: first.save(
            temporary, format="GIF", save_all=True, append_images=others, duration=1000 / fps, loop=0
        ),
    )


def save_mp4(path: str | Path, frames: Frames, fps: int | float = 10.0) -> None:
    """Frames, grey or RGB, as an MP4 (H.264, ``yuv420p``, which every browser plays), atomically.

    That format has even sides: an odd row or column is shown twice. Raises ``ImportError`` without
    ``imageio-ffmpeg``.
    """
    ffmpeg = optional_import("imageio_ffmpeg", "film").get_ffmpeg_exe()
    _check(frames)
    require(0 < fps <= 240, "fps", fps, "above 0, at most 240")
    rows, columns = frames[0].shape[:2]
    margin = ((0, rows % 2), (0, columns % 2), *[(0, 0)] * (frames[0].ndim - 2))
    source = ("-f", "rawvideo", "-pix_fmt", "gray" if frames[0].ndim == 2 else "rgb24", "-r", f"{fps:g}",
              "-s", f"{columns + columns % 2}x{rows + rows % 2}", "-i", "-")  # fmt: skip
    target = ("-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4")
    pixels = b"".join(np.pad(frame, margin, mode="edge").tobytes() for frame in frames)

    def write(temporary: Path) -> None:
        # not by the package's own writer: it runs Python in a forked child, which JAX's threads forbid
        words = [ffmpeg, "-y", "-v", "error", *source, *target, str(temporary)]
        done = subprocess.run(words, input=pixels, capture_output=True, check=False)
        if done.returncode:
            raise OSError(f"{path}: ffmpeg ended with {done.stderr.decode(errors='replace').strip()}")

    write_atomically(path, write)


def _check(frames: Frames) -> None:
    require(len(frames) >= 1, "frames", 0, "at least 1")
    first = np.asarray(frames[0])
    grey_or_colour = first.ndim == 2 or (first.ndim == 3 and first.shape[-1] == 3)
    require(grey_or_colour and first.size > 0, "frames: shape", first.shape, "(rows, columns) or (.., .., 3)")
    for number, frame in enumerate(frames):
        require(frame.dtype == np.uint8, f"frames[{number}]: dtype", str(frame.dtype), "uint8")
        require(frame.shape == first.shape, f"frames[{number}]: shape", frame.shape, f"{first.shape}")
