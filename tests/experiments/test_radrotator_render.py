"""Rendering radiographs: angles, a sphere's chord in every file that is written, physics, mistakes."""

import csv
import json

import numpy as np
import pytest
from launching import launch_module
from PIL import Image

from diffax.data import Volume, read_volume
from diffax.io import new_folder, write_nifti
from diffax.operators import CArm
from diffax.operators.attenuation import MU_WATER
from diffax.operators.spectrum import tube
from experiments.radrotator import angles, casting, placing, render
from experiments.radrotator.angles import Angles

CENTRE, RADIUS = np.array([12.0, -8.0, 16.0]), 40.0  # of the sphere; the volume's middle is the origin
MODULE = "experiments.radrotator.render"
FLAGS = {
    "volume": "ct.nii", "out": "views", "angles": "ap", "size": 64, "sdd": 1020.0, "sod": "", "spacing": 0.0,
    "isocentre": "", "method": "joseph", "series": "", "image": "display", "window": "", "spectrum": "mono",
    "photons": 0.0, "seed": 0, "film": "gif", "fps": 10.0, "lines": "npz",
}  # fmt: skip


@pytest.fixture(scope="module")
def ball():
    """A sphere of water, 3 mm voxels, each the mean of 4^3 points; the grid is not as wide as it is high."""
    shape, fine = (44, 42, 46), 4
    axes = [3.0 * ((np.arange(n * fine) + 0.5) / fine - n / 2) for n in shape]
    x, y, z = (axis - c for axis, c in zip(axes, CENTRE, strict=True))
    inside = x[:, None, None] ** 2 + y[:, None] ** 2 + z**2 < RADIUS**2
    share = inside.reshape(shape[0], fine, shape[1], fine, shape[2], fine).mean(axis=(1, 3, 5))
    affine = np.diag([3.0, 3, 3, 1])
    affine[:3, 3] = -1.5 * (np.array(shape) - 1)
    return Volume(np.asarray(1000 * share - 1000, np.float32), affine)


def turned(yaw, pitch, roll):
    """Rz Rx Ry, written out."""
    (a, b, c), (s, t, u) = np.cos(np.radians([yaw, pitch, roll])), np.sin(np.radians([yaw, pitch, roll]))
    about_z = np.array([[a, -s, 0], [s, a, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, b, -t], [0, t, b]])
    return about_z @ about_x @ np.array([[c, 0, u], [0, 1, 0], [-u, 0, c]])


def chords(view, size, spacing, sdd, sod):
    """The sphere's chord for every pixel by the distance of a line from a point, and this distance."""
    place = (np.arange(size) - (size - 1) / 2) * spacing
    target = np.stack(np.broadcast_arrays(-place[None], sod - sdd, -place[:, None]), -1)
    source, matrix = np.array([0, sod, 0]), turned(*view)
    along = (target - source) / np.linalg.norm(target - source, axis=-1, keepdims=True)
    to_centre = CENTRE @ matrix - source
    apart = np.linalg.norm(np.cross(along, to_centre), axis=-1)
    return 2 * np.sqrt(np.clip(RADIUS**2 - apart**2, 0, None)), apart


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ap; LEFT", [(0, 0, 0), (90, 0, 0)]),
        ("10,-5,0.5", [(10, -5, 0.5)]),
        ("0:0.3:0.1,0,0", [(0, 0, 0), (0.1, 0, 0), (0.2, 0, 0), (0.3, 0, 0)]),
        ("10:-10:-10,1,2:3:2", [(10, 1, 2), (0, 1, 2), (-10, 1, 2)]),
    ],
)
def test_angles_are_read(text, expected):
    assert angles.parse_angles(text) == expected


def test_a_sweep_is_every_combination():
    views = angles.parse_angles("-15:15:5,-15:15:5,-15:15:5")
    assert len(set(views)) == 343
    assert (views[0], views[1], views[-1]) == ((-15, -15, -15), (-15, -15, -10), (15, 15, 15))
    assert angles.caption(Angles(180, 0, 0)) == "PA"
    assert angles.caption(Angles(-5, 2.5, 0)) == "-5, 2.5, 0"


def test_a_sphere_in_every_file(tmp_path, ball):
    write_nifti(tmp_path / "ball.nii", ball)
    out = tmp_path / "new" / "views"
    done = launch_module(MODULE, volume=tmp_path / "ball.nii", angles="ap;left;20,-10,30", size=64, out=out)
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "result.json").read_text())
    figures = {figure["name"]: figure["value"] for figure in result["figures"]}
    assert (figures["views"], figures["compilations"]) == (3, 2)  # one for each axis of slabs
    views = [(0, 0, 0), (90, 0, 0), (20, -10, 30)]
    geometry = result["notes"]["geometry"]
    place = [geometry[k] for k in ("spacing", "sdd", "sod")]
    truth, apart = map(np.stack, zip(*[chords(v, 64, *place) for v in views], strict=True))
    with np.load(out / "lines.npz") as stored:
        lines = stored["lines"]
        np.testing.assert_array_equal(stored["angles"], views)
        assert (stored["unit"], stored["sod"], stored["spacing"]) == ("1", 510, geometry["spacing"])
    inside, outside = apart < RADIUS - 5, apart > RADIUS + 5  # the limb is blurred by voxels
    np.testing.assert_allclose(lines[inside], MU_WATER * truth[inside], atol=0.03)  # 2 % of the most
    assert lines[outside].max() < 1e-3
    np.testing.assert_allclose(lines.mean((1, 2)), MU_WATER * truth.mean((1, 2)), rtol=5e-3)
    assert figures["peak_line_integral"] == pytest.approx(MU_WATER * 2 * RADIUS, rel=0.01)
    low, high = result["notes"]["black_and_white"]
    with (out / "views.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [tuple(float(row[k]) for k in ("yaw", "pitch", "roll")) for row in rows] == views
    shown = np.stack([np.asarray(Image.open(out / row["file"])) for row in rows])
    assert (shown.dtype, shown.shape) == (np.uint8, (3, 64, 64))
    wanted = np.clip((MU_WATER * truth - low) / (high - low), 0, 1)
    np.testing.assert_allclose(shown[inside] / 255, wanted[inside], atol=0.025)
    assert shown[outside].max() == 0
    film, sheet = Image.open(out / "film.gif"), Image.open(out / "sheet.png")
    assert film.n_frames == 3
    assert sheet.size[0] >= 2 * 448
    assert [path.name for path in out.parent.iterdir()] == ["views"]


def test_a_body_of_air_is_refused(tmp_path, ball):
    write_nifti(tmp_path / "air.nii", Volume(np.full_like(ball.array, -1000), ball.affine))
    done = launch_module(MODULE, volume=tmp_path / "air.nii", out=tmp_path / "views")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "got -1000.0, allowed: a body" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["air.nii"]


def test_physics(ball):
    arm = CArm(spacing=6.0, shape=(32, 32))
    views, middle = [Angles(0.0, 0.0, 0.0), Angles(0.0, 0.0, 0.0)], tuple(CENTRE)

    def lines(**physics):
        return casting.cast(ball, arm, views, middle, casting.Physics(**physics)).lines

    exact = lines(method="siddon")
    thick = exact > 0.6 * exact.max()
    for method in ("joseph", "trilinear"):
        other = lines(method=method)
        np.testing.assert_allclose(other[thick], exact[thick], rtol=0.08)
        assert other.mean() == pytest.approx(exact.mean(), rel=0.01)
    spectrum = tube()
    paths = exact / MU_WATER
    expected = -np.log(np.sum(spectrum.share * np.exp(-paths[..., None] * spectrum.mu[0]), axis=-1))
    np.testing.assert_allclose(lines(method="siddon", polychromatic=True), expected, atol=2e-4)
    noisy = lines(photons=400.0)
    outside = np.exp(-noisy[exact == 0])
    assert outside.std() == pytest.approx(1 / 20, rel=0.1)
    assert outside.mean() == pytest.approx(1, abs=0.01)
    assert not np.array_equal(noisy[0], noisy[1])  # each view has noise of its own
    assert not np.array_equal(noisy, lines(photons=400.0, seed=1))


def test_the_body_fits_into_every_view_and_between_source_and_detector(ball):
    body, views = placing.outline(ball), angles.parse_angles("ap;60,30,10;left")
    for sod in (None, 300.0):
        arm = placing.place(CArm(shape=(48, 48)), body, views, (0.0, 0.0, 0.0), sod, 0.0)
        apart = np.stack([chords(view, 48, arm.spacing, arm.sdd, arm.sod)[1] for view in views])
        for depth, outside in ((0, True), (4, False)):  # on the picture, and not in much too wide a one
            edges = [apart[:, depth], apart[:, -1 - depth], apart[:, :, depth], apart[:, :, -1 - depth]]
            assert (min(edge.min() for edge in edges) > RADIUS) == outside
    arm = placing.place(CArm(shape=(48, 48)), body, views[:1], (0.0, 0.0, 0.0), float("inf"), 0.0)
    assert RADIUS + CENTRE[2] < arm.spacing * 24 < 1.03 * (RADIUS + CENTRE[2] + 5)
    wide = placing.place(CArm(shape=(48, 96)), body, views[:1], (0.0, 0.0, 0.0), float("inf"), 0.0)
    assert wide.spacing == arm.spacing  # it is the height that must fit
    with pytest.raises(ValueError, match=r"--sdd: got 90.0, allowed: at least 1\d\d mm"):
        placing.place(CArm(sdd=90.0), body, views, (0.0, 0.0, 0.0), None, 0.0)
    with pytest.raises(ValueError, match=r"--sod: got 20.0, allowed: over"):
        placing.place(CArm(), body, views, (0.0, 0.0, 0.0), 20.0, 0.0)
    near = placing.place(CArm(sdd=160.0), body, views, (0.0, 0.0, 0.0), None, 0.0)
    assert 60 < near.sod < 100


def test_nifti_is_upright_from_the_front(tmp_path, ball):
    arm = CArm(sod=float("inf"), spacing=4.0, shape=(40, 40))
    found = casting.cast(ball, arm, [Angles(0.0, 0.0, 0.0)], (0.0, 0.0, 0.0), casting.Physics())
    render.write_lines(tmp_path, found.lines, [Angles(0.0, 0.0, 0.0)], arm, (0.0, 0.0, 0.0), "nifti")
    stack = read_volume(tmp_path / "lines.nii.gz")
    index = np.stack(np.indices(stack.array.shape), -1) @ stack.affine[:3, :3].T + stack.affine[:3, 3]
    place = np.average(index.reshape(-1, 3), axis=0, weights=stack.array.ravel())
    np.testing.assert_allclose(place, [CENTRE[0], 0, CENTRE[2]], atol=0.2)
    np.testing.assert_allclose(stack.array.sum() * 16, MU_WATER * 4 / 3 * np.pi * RADIUS**3, rtol=0.01)


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("angles", "up", "--angles: got 'up', allowed"),
        ("angles", " ; ", "--angles"),
        ("angles", "1,2", "--angles"),
        ("angles", "1,2,x", "--angles: got 'x'"),
        ("angles", "1,2,nan", "--angles: got 'nan'"),
        ("angles", "0:10:-1,0,0", "a step from start to stop"),
        ("angles", "0:10,0,0", "start:stop:step"),
        ("angles", "0:99:0.001,0,0", "at most"),
        ("angles", "0:99:1,0:99:1,0:99:1", "at most 10000"),
        ("out", "", "--out"),
        ("volume", "", "--volume"),
        ("size", 1, "--size: got 1"),
        ("size", 100_000, "--angles, --size"),
        ("sdd", float("inf"), "--sdd: got inf"),
        ("spacing", -1.0, "--spacing: got -1"),
        ("photons", float("nan"), "--photons: got nan"),
        ("fps", 0.0, "--fps: got 0"),
        ("method", "magic", "--method: got 'magic'"),
        ("film", "avi", "--film: got 'avi'"),
        ("window", "3,1", "--window: got '3,1'"),
        ("out", ".", "--out: got '.', allowed: a new or empty folder"),
    ],
)
def test_flags_that_cannot_be(flag, value, words):
    assert render.check(FLAGS) == [(0, 0, 0)]
    with pytest.raises(ValueError, match=r"got .*allowed") as caught:
        render.check(FLAGS | {flag: value})
    assert words in str(caught.value)


def test_places_that_cannot_be(ball):
    for call, words in (
        (lambda: render.sod_of("near"), "--sod: got 'near'"),
        (lambda: render.sod_of("-1"), "--sod: got '-1'"),
        (lambda: render.isocentre_of("1,2", ball), "--isocentre: got '1,2'"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert render.isocentre_of("1,2,-3", ball) == (1, 2, -3)
    np.testing.assert_allclose(render.isocentre_of("", ball), 0, atol=1e-9)
    assert render.sod_of("inf") == float("inf")


def test_one_scale_of_greys_for_all_views():
    lines = np.stack([np.linspace(1, 3, 100), np.linspace(2, 6, 100)]).reshape(2, 10, 10)
    low, high = render.scale_of(lines, "display", "")
    assert (low, high) == (1.0, pytest.approx(6, abs=0.01))
    assert render.scale_of(lines, "lines", "") == (0, 6)
    assert render.scale_of(lines, "display", "2,4") == (2, 4)
    frame = render.frame_of(lines[0], (2.0, 4.0), "display")
    assert (frame.min(), frame.max()) == (0, 128)
    air = render.frame_of(np.array([[0.0, 5.0]]), render.scale_of(lines, "transmission", ""), "transmission")
    np.testing.assert_array_equal(air, [[255, 2]])


def test_nothing_half_written_stays(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "views") as folder:  # noqa: PT012
        (folder / "view-0000.png").write_bytes(b"half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
