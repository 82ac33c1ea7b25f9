"""Films: what is written comes back, frame by frame."""

import subprocess

import numpy as np
import pytest
from PIL import Image, ImageSequence

from diffax.io import save_gif, save_mp4

GREY = (np.add.outer(np.arange(21) * 9, np.arange(33) * 2)[None] // np.arange(1, 5)[:, None, None]).astype(
    np.uint8
)


def test_a_gif_keeps_greys_order_and_time(tmp_path):
    save_gif(tmp_path / "film.gif", GREY, fps=4)
    with Image.open(tmp_path / "film.gif") as film:
        assert (film.n_frames, film.info["duration"], film.info["loop"]) == (4, 250, 0)
        back = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(film)]
    np.testing.assert_array_equal(back, GREY)
    colour = np.stack([GREY, GREY * 0, 255 - GREY], -1)
    save_gif(tmp_path / "film.gif", list(colour), fps=50)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 4
        np.testing.assert_allclose(np.asarray(film.convert("RGB")), colour[0], atol=12)  # 256 colours
    assert [file.name for file in tmp_path.iterdir()] == ["film.gif"]


@pytest.mark.parametrize("colour", [False, True])
def test_an_mp4_of_odd_sides_comes_back(tmp_path, colour):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    frames = np.stack([GREY, GREY, GREY], -1) if colour else GREY
    save_mp4(tmp_path / "film.mp4", frames, fps=5)
    words = [ffmpeg.get_ffmpeg_exe(), "-i", tmp_path / "film.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    read = subprocess.run(words, capture_output=True, check=True)
    for about in (b"h264", b"yuv420p", b"34x22", b"5 fps"):
        assert about in read.stderr
    back = np.frombuffer(read.stdout, np.uint8).reshape(-1, 22, 34, 3)
    assert len(back) == 4
    np.testing.assert_allclose(back[:, :21, :33].mean(-1), GREY, atol=12)
    np.testing.assert_allclose(back[:, :21, :33].mean((1, 2, 3)), GREY.mean((1, 2)), atol=1.5)


def test_mistakes_are_named_and_leave_nothing(tmp_path):
    for frames, fps, words in (
        ([], 5, "frames: got 0"),
        (GREY.astype(np.float32), 5, "dtype: got 'float32'"),
        ([GREY[0], GREY[0][1:]], 5, r"frames\[1\]: shape"),
        ([GREY[0][..., None]], 5, "frames: shape"),
        (GREY, 0, "fps: got 0"),
        (GREY, 1000, "fps: got 1000"),
    ):
        for save in (save_gif, save_mp4):
            with pytest.raises(ValueError, match=words):
                save(tmp_path / "film", frames, fps)
    assert not list(tmp_path.iterdir())
