"""RadRotator's programs around a run: the launcher, rotate and its page, compare."""

import json
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from launching import launch, launch_module

from configs.radrotator import pelvis
from experiments.radrotator import (
    rotate,
    serve,
)
from experiments.radrotator.radiographs import Given


class Shifting:
    """In the network's place: the picture moved by the rotation's pixels, so that a view tells its angle."""

    config = pelvis.get_config("smoke")
    size, limit = 16, 15.0

    def views(self, image, angles, seed=0):
        return np.stack([np.roll(image, (round(p), round(y)), (0, 1)) for y, p, _ in angles])


@pytest.fixture
def page():
    square = np.zeros((16, 16), np.float32)
    square[4, 6] = 1.0
    given = Given(square, (16, 16), None, "type", False)
    with serve.make_server(Shifting(), given, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as reply:
        return reply.read()


def picture(content):
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content)))


def test_the_page_shows_what_the_sliders_ask_for(page):
    assert b"<input type=" in get(page)
    assert json.loads(get(page + "/about.json"))["limit"] == 15.0
    front, turned = (picture(get(f"{page}/view.png?yaw={yaw}&pitch=2")) for yaw in (0, 5))
    assert np.unravel_index(front.argmax(), front.shape) == (6, 6)
    assert np.unravel_index(turned.argmax(), turned.shape) == (6, 11)
    assert picture(get(f"{page}/uncertainty.png?yaw=1")).shape == (16, 16, 3)


def test_another_radiograph_can_be_opened_and_a_broken_one_is_refused(page):
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (32, 1))).save(stream, "PNG")
    request = urllib.request.Request(page + "/radiograph?name=a.png", data=stream.getvalue())
    urllib.request.urlopen(request, timeout=20).close()
    assert picture(get(page + "/original.png")).shape == (192, 384)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(page + "/radiograph?name=b.png", data=b"no picture", timeout=20)
    assert "b.png" in error.value.read().decode()
    assert picture(get(page + "/original.png")).shape == (192, 384)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/view.png?yaw=left", {}),
        ("/view.png?pitch=nan", {}),
        ("/view.png?seed=-1", {}),
        ("/about.json", {"Host": "evil.example:80"}),
        ("/about.json", {"Origin": "http://evil.example"}),
        ("/../setup.cfg", {}),
    ],
)
def test_the_page_refuses(page, path, headers):
    with pytest.raises(urllib.error.HTTPError) as error:
        get(page + path, **headers)
    assert error.value.code in (400, 404)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"image": ""}, "--image"),
        ({"workdir": ""}, "--workdir"),
        ({"out": ""}, "--out"),
        ({"yaw": float("nan")}, "--yaw"),
        ({"sweep": "sphere"}, "--sweep"),
        ({"sweep": "grid", "out": "a.png"}, "--out"),
        ({"seeds": 4, "out": "a.png"}, "--out"),
        ({"out": "view.jpg"}, "--out"),
        ({"seeds": 0}, "--seeds"),
        ({"step": 0.0}, "--step"),
        ({"film": "avi"}, "--film"),
        ({"port": 99999}, "--port"),
    ],
)
def test_flags_of_rotate_that_cannot_be(changes, named):
    good = {"image": "a.png", "workdir": "run", "out": "out", "sweep": "", "film": "gif", "serve": False}
    good |= {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "step": 5.0, "fps": 10.0}
    good |= {"seeds": 1, "size": 256, "port": 0}
    rotate.check(good)
    with pytest.raises(ValueError, match=named):
        rotate.check(good | changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the launcher, trained and evaluated."""
    folder = tmp_path_factory.mktemp("radrotator") / "run"
    small = ("--config.model.channel_multipliers=(1,)", "--config.model.middle_attention=False")
    for mode in ("train", "eval"):
        done = launch(folder, *small, config="configs/radrotator/pelvis.py:smoke", mode=mode)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_figures_and_pictures_of_a_run(trained):
    names = {figure["name"] for figure in json.loads((trained / "result.json").read_text())["figures"]}
    assert {"psnr", "ssim", "retrieval_27", "landmark_mm", "style_loss", "copy/psnr", "flat/psnr"} <= names
    assert (trained / "views.png").exists()
    assert (trained / "angles.png").exists()


@pytest.mark.slow
def test_a_radiograph_is_turned(trained, tmp_path):
    """A view that was not trained, a grid, a file that is not there."""
    from PIL import Image

    Image.fromarray(np.tile(np.arange(60, dtype=np.uint16) * 900, (40, 1))).save(tmp_path / "xray.png")
    common = {"image": tmp_path / "xray.png", "workdir": trained}
    module = "experiments.radrotator.rotate"
    done = launch_module(module, **common, yaw=20, out=tmp_path / "one.png")
    assert done.returncode == 0, done.stderr
    assert "outside the trained" in done.stderr
    assert Image.open(tmp_path / "one.png").size == (256, 171)
    done = launch_module(module, **common, sweep="grid", step=15, out=tmp_path / "grid", film="gif")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "grid").glob("view-*.png"))) == 27
    assert (tmp_path / "grid" / "film.gif").exists()
    done = launch_module(module, image=tmp_path / "none.png", workdir=trained, out=tmp_path / "bad")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "bad").exists()


@pytest.mark.slow
def test_a_run_is_tried_on_another_source(trained, tmp_path):
    compare = "experiments.radrotator.compare"
    done = launch_module(compare, workdir=trained, source="chest", n=2, out=tmp_path / "chest")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "chest" / "result.json").read_text())["figures"]
    assert {figure["split"] for figure in found} == {"of another source, chest"}
