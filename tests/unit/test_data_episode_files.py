"""Demonstrations in the layouts of robot learning, each written here by that layout's own library."""

import io
import json
import shutil
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from diffax.data import demonstrations as shared
from diffax.data import lerobot_writer, read_demonstrations, write_demonstrations, write_lerobot
from diffax.data.demonstrations import Demonstrations
from diffax.data.episodes import Episodes, Windows

LENGTHS = (3, 1, 5)
ENDS = (3, 4, 9)


def drawn(lengths=LENGTHS, seed=0):
    """What happened in some episodes, (steps, ...) by field; numbers that float32 holds exactly."""
    rng = np.random.default_rng(seed)
    return [
        {
            "action": rng.normal(size=(n, 2)).astype(np.float32),
            "state": rng.normal(size=(n, 3)).astype(np.float32),
            "gripper": rng.normal(size=(n,)).astype(np.float32),
            "count": rng.integers(-9, 9, (n, 1)),
            "image": rng.integers(0, 256, (n, 4, 5, 3)).astype(np.uint8),
        }
        for n in lengths
    ]


def joined(episodes, field):
    found = np.concatenate([episode[field] for episode in episodes])
    return found[:, None] if found.ndim == 1 else found


def assert_holds(found, episodes, fields, tasks):
    """The episodes, field by field and bit by bit, with the sentence of each."""
    assert set(found.episodes.steps) == {"action", *fields}
    for name in ("action", *fields):
        expected, got = joined(episodes, name), found.episodes.steps[name]
        assert got.dtype == expected.dtype, name
        np.testing.assert_array_equal(got, expected, err_msg=name)
    np.testing.assert_array_equal(found.episodes.ends, np.cumsum([len(e["action"]) for e in episodes]))
    assert [found.tasks[task] for task in found.episodes.task] == list(tasks)
    json.dumps(dict(found.about))


# --- HDF5


def write_hdf5(path, episodes, names=None, sentence=None, env_args=None, **attributes):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(len(episode["action"]) for episode in episodes)
        if env_args is not None:
            data.attrs["env_args"] = json.dumps(env_args)
        if sentence is not None:
            data.attrs["problem_info"] = json.dumps({"language_instruction": sentence})
        for name, episode in zip(names or [f"demo_{i}" for i in range(len(episodes))], episodes, strict=True):
            demo = data.create_group(name)
            demo.attrs["num_samples"] = len(episode["action"])
            for key, value in attributes.items():
                demo.attrs[key] = value
            demo["actions"] = episode["action"].astype(np.float64)
            demo["rewards"] = np.zeros(len(episode["action"]))
            for key in set(episode) - {"action"}:
                demo[f"obs/{key}"] = episode[key]
    return path


LIFT = {"env_name": "Lift", "env_kwargs": {"control_freq": 20}}
VECTORS = ("state", "gripper", "count")


def test_robomimic_in_the_order_of_numbers(tmp_path):
    episodes = drawn(range(1, 13))
    path = write_hdf5(tmp_path / "low_dim.hdf5", episodes, env_args=LIFT)
    found = read_demonstrations(path)
    assert_holds(found, episodes, VECTORS, ["Lift"] * 12)
    assert (found.about["env_args"], found.about["fps"]) == (LIFT, 20)


def test_robomimic_fields_actions_and_masks(tmp_path):
    h5py = pytest.importorskip("h5py")
    episodes = drawn()
    path = write_hdf5(tmp_path / "a.hdf5", episodes, ["demo_2", "demo_10", "demo_0"], env_args=LIFT)
    with h5py.File(path, "a") as file:
        for name in ("demo_2", "demo_10", "demo_0"):
            file[f"data/{name}/absolute"] = file[f"data/{name}/actions"][:] + 1
        file["mask/valid"] = np.asarray([b"demo_10"])
        file["mask/train"] = np.asarray([b"demo_0", b"demo_2"])
    in_order = [episodes[2], episodes[0], episodes[1]]
    found = read_demonstrations(path, fields=("image", "state"))
    assert_holds(found, in_order, ("image", "state"), ["Lift"] * 3)
    assert found.about["splits"] == {"train": [0, 1], "valid": [2]}
    other = read_demonstrations(path, ["state"], action="absolute").episodes.steps["action"]
    np.testing.assert_allclose(other, joined(in_order, "action") + 1, rtol=1e-6)


def test_masks_in_a_folder_count_on(tmp_path):
    h5py = pytest.importorskip("h5py")
    for name in "ab":
        path = write_hdf5(tmp_path / f"{name}.hdf5", drawn())
        with h5py.File(path, "a") as file:
            file["mask/train"] = np.asarray([b"demo_0", b"demo_2"])
    assert read_demonstrations(tmp_path).about["splits"] == {"train": [0, 2, 3, 5]}


def test_libero_folder_has_a_task_for_each_file(tmp_path):
    groups = [drawn(seed=1), drawn((2, 2), seed=2), drawn((4,), seed=3)]
    sentences = ["open the drawer", ["push ", "the plate"], '"open the drawer"']
    for name, group, sentence in zip("bca", groups, sentences, strict=True):
        write_hdf5(tmp_path / f"{name}_demo.hdf5", group, sentence=sentence, env_args=LIFT)
    (tmp_path / "notes.txt").write_text("not a demonstration")
    found = read_demonstrations(tmp_path)
    expected = ["open the drawer"] * 4 + ["push the plate"] * 2
    assert_holds(found, [*groups[2], *groups[0], *groups[1]], VECTORS, expected)
    assert found.tasks == ("open the drawer", "push the plate")
    assert found.about["files"] == ["a_demo.hdf5", "b_demo.hdf5", "c_demo.hdf5"]


def test_hdf5_tasks_of_demonstrations_and_of_files_without_a_word(tmp_path):
    path = write_hdf5(tmp_path / "own.h5", drawn(), ep_meta=json.dumps({"lang": "close the door"}))
    assert read_demonstrations(path).tasks == ("close the door",)
    assert read_demonstrations(write_hdf5(tmp_path / "stack cubes.h5", drawn())).tasks == ("stack cubes",)


def edit_hdf5(tmp_path, change):
    path = write_hdf5(tmp_path / "bad.hdf5", drawn(), env_args=LIFT)
    import h5py

    with h5py.File(path, "a") as file:
        change(file)
    return path


def put(name, values):
    """The change that replaces a data set of the first, second or third demonstration."""

    def change(file):
        del file[f"data/demo_{name}"]
        file[f"data/demo_{name}"] = values

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("data/demo_1/actions"), r"bad.hdf5: data/demo_1: fields: got .*allowed: 'actions'"),
        (lambda f: f.pop("data/demo_1/obs"), r"data/demo_1: groups: got .*allowed: 'obs' among them"),
        (lambda f: f.pop("data/demo_2/obs/state"), r"data/demo_2/obs: got .*\['state'\] too, as in demo_0"),
        (lambda f: f.pop("data"), r"bad.hdf5: groups: got \[\], allowed: 'data'"),
        (lambda f: [f.pop(f"data/demo_{i}") for i in range(3)], r"data: got \[\], allowed: groups demo_0"),
        (put("2/obs/state", np.zeros((4, 3))), r"demo_2: state: rows: got 4, allowed: 5"),
        (put("2/obs/state", np.zeros((5, 2))), r"demo_2: state: shape of a step: .*\(3,\)"),
        (put("1/actions", np.zeros((0, 2))), r"actions: rows: got 0, allowed: 1, its num"),
        (put("0/actions", np.zeros((2, 2))), r"actions: rows: got 2, allowed: 3, its num"),
        (put("0/actions", np.full((3, 2), np.nan)), r"'action'\]: episode 0: got 'NaN"),
        (put("2/obs/state", np.full((5, 3), 1e39)), r"'state'\]: episode 2: got 'NaN"),
        (put("0/actions", [b"a", b"b", b"c"]), r"demo_0/actions: type: got .*: numbers"),
        (lambda f: f["data"].attrs.update(env_args="{'a'"), r"bad.hdf5: env_args: got .*allowed: JSON"),
    ],
)
def test_bad_hdf5(tmp_path, change, message):
    pytest.importorskip("h5py")
    path = edit_hdf5(tmp_path, change)
    with pytest.raises(ValueError, match=message) as error:
        read_demonstrations(path)
    assert "bad.hdf5" in str(error.value)


def test_unknown_fields_are_named_with_those_there(tmp_path):
    path = write_hdf5(tmp_path / "a.hdf5", drawn())
    message = r"a.hdf5.*fields: got \['velocity'\], allowed: some of count, gripper, image, state"
    with pytest.raises(ValueError, match=message):
        read_demonstrations(path, ["state", "velocity"])


def test_libero_files_must_agree(tmp_path):
    write_hdf5(tmp_path / "a.hdf5", drawn())
    write_hdf5(tmp_path / "b.hdf5", [{"action": e["action"], "state": e["state"]} for e in drawn()])
    with pytest.raises(ValueError, match=r"b.hdf5: fields: .*allowed: .*'gripper'.*as in a.hdf5"):
        read_demonstrations(tmp_path)


# --- zarr


def write_zarr(path, episodes, version=2, ends=None):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    if version == 3 and int(zarr.__version__.split(".")[0]) < 3:
        pytest.skip("this zarr writes no version 3")
    options = {"zarr_format": version} if int(zarr.__version__.split(".")[0]) >= 3 else {}
    root = zarr.open_group(str(path), mode="w", **options)
    data, meta = root.create_group("data"), root.create_group("meta")
    for name in episodes[0]:
        values = np.concatenate([episode[name] for episode in episodes])
        array = data.create_array if hasattr(data, "create_array") else data.create_dataset
        array(name, shape=values.shape, dtype=values.dtype, chunks=(4, *values.shape[1:]))[:] = values
    lengths = [len(episode["action"]) for episode in episodes]
    array = meta.create_array if hasattr(meta, "create_array") else meta.create_dataset
    ends = np.cumsum(lengths) if ends is None else np.asarray(ends)
    array("episode_ends", shape=ends.shape, dtype=ends.dtype)[:] = ends
    return path


def zipped(folder, wrap=""):
    path = folder.with_name(folder.name + ".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"{wrap}{file.relative_to(folder).as_posix()}")
    shutil.rmtree(folder)
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("pack", [lambda p: p, zipped, lambda p: zipped(p, "pusht/replay.zarr/")])
def test_replay_buffers(tmp_path, version, pack):
    episodes = drawn()
    path = pack(write_zarr(tmp_path / "pusht_replay.zarr", episodes, version))
    assert_holds(read_demonstrations(path), episodes, VECTORS, ["pusht_replay"] * 3)
    found = read_demonstrations(path, fields=["image"], action="state")
    np.testing.assert_array_equal(found.episodes.steps["image"], joined(episodes, "image"))
    np.testing.assert_array_equal(found.episodes.steps["action"], joined(episodes, "state"))


def test_replay_buffers_with_an_unknown_codec(tmp_path):
    episodes = drawn()
    path = write_zarr(tmp_path / "a.zarr", episodes)
    about = path / "data" / "image" / ".zarray"
    described = json.loads(about.read_text()) | {"compressor": {"id": "imagecodecs_jpeg2k", "level": 50}}
    about.write_text(json.dumps(described))
    found = read_demonstrations(path)
    assert_holds(found, episodes, VECTORS, ["a"] * 3)
    assert found.about["left_out"] == ["image"]
    with pytest.raises(ValueError, match=r"a.zarr: data: fields: got \['image'\], allowed: some of count"):
        read_demonstrations(path, ["image"])


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ([3, 3, 9], r"meta/episode_ends\[1\]: got 3, allowed: increasing"),
        ([4, 3, 9], r"meta/episode_ends\[1\]: got 3, allowed: increasing"),
        ([0, 3, 9], r"meta/episode_ends\[0\]: got 0, allowed: increasing"),
        ([3, 4, 8], r"data/action: rows: got 9, allowed: 8, the last of meta/episode_ends"),
        ([3.0, 4.0, 9.0], r"meta/episode_ends: got 'float64 \(3,\)', allowed: one integer or more"),
        ([], r"meta/episode_ends: got .* allowed: one integer or more"),
    ],
)
def test_bad_episode_ends(tmp_path, ends, message):
    path = write_zarr(tmp_path / "bad.zarr", drawn(), ends=ends)
    with pytest.raises(ValueError, match=r"bad.zarr: " + message):
        read_demonstrations(path)


def test_other_bad_replay_buffers(tmp_path):
    path = write_zarr(tmp_path / "bad.zarr", drawn())
    (chunk,) = (path / "data" / "state").glob("1.*")
    chunk.write_bytes(chunk.read_bytes()[:9])
    with pytest.raises(ValueError, match=r"bad.zarr: data/state: got .*allowed: chunks that zarr can read"):
        read_demonstrations(path)
    chunk.unlink()
    shutil.rmtree(path / "data" / "action")
    with pytest.raises(ValueError, match=r"bad.zarr: arrays: got .*allowed: 'data/action' among them"):
        read_demonstrations(path)
    packed = zipped(path)
    packed.write_bytes(packed.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"bad.zarr.zip: got .*allowed: a whole .zip"):
        read_demonstrations(packed)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ValueError, match=r"photos.zip: arrays meta/episode_ends: got 0"):
        read_demonstrations(tmp_path / "photos.zip")


# --- LeRobot

TASKS = {7: "push the cube", 3: "lift the cube"}
TASK_OF = (7, 3, 3)
LEROBOT = ("state", "observation.gripper", "observation.count")


def lerobot_features():
    numbers = {"action": ("float32", [2]), "observation.state": ("float32", [3])}
    numbers |= {"observation.gripper": ("float32", [1]), "observation.count": ("int64", [1])}
    numbers |= {"observation.grid": ("float32", [2, 2]), "observation.image": ("video", [4, 5, 3])}
    numbers |= {name: ("int64", [1]) for name in ("frame_index", "episode_index", "index", "task_index")}
    numbers |= {"timestamp": ("float32", [1]), "next.reward": ("float32", [1]), "next.done": ("bool", [1])}
    return {name: {"dtype": kind, "shape": shape, "names": None} for name, (kind, shape) in numbers.items()}


def lerobot_table(number, episode, start):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    n = len(episode["action"])
    grid = np.arange(4 * n, dtype=np.float32).reshape(n, 2, 2) + start
    return pa.table(
        {
            "observation.state": pa.array(episode["state"].tolist(), pa.list_(pa.float32(), 3)),
            "action": pa.array(episode["action"].tolist(), pa.list_(pa.float32())),
            "observation.gripper": pa.array(episode["gripper"]),
            "observation.count": pa.array(episode["count"][:, 0]),
            "observation.grid": pa.array(grid.tolist(), pa.list_(pa.list_(pa.float32()))),
            "next.reward": pa.array(np.zeros(n, np.float32)),
            "next.done": pa.array([False] * n),
            "timestamp": pa.array(np.arange(n, dtype=np.float32) / 10),
            "frame_index": pa.array(np.arange(n)),
            "episode_index": pa.array([number] * n),
            "index": pa.array(start + np.arange(n)),
            "task_index": pa.array([TASK_OF[number]] * n),
        }
    )


def write_lerobot_files(root, episodes, **info):
    """Two files of data, in the second the steps of two episodes; tasks in no order, their column unnamed."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    tables = [lerobot_table(i, e, (0, 3, 4)[i]) for i, e in enumerate(episodes)]
    for folder in ("data", "meta/episodes"):
        (root / folder / "chunk-000").mkdir(parents=True)
    pq.write_table(tables[0], root / "data/chunk-000/file-000.parquet")
    pq.write_table(pa.concat_tables(tables[1:]), root / "data/chunk-000/file-001.parquet")
    about = {"episode_index": [0, 1, 2], "length": list(LENGTHS), "tasks": [[TASKS[t]] for t in TASK_OF]}
    about |= {"dataset_from_index": [0, 3, 4], "dataset_to_index": [3, 4, 9]}
    pq.write_table(pa.table(about), root / "meta/episodes/chunk-000/file-000.parquet")
    tasks = {"task_index": list(TASKS), "__index_level_0__": list(TASKS.values())}
    pq.write_table(pa.table(tasks), root / "meta/tasks.parquet")
    described = {"codebase_version": "v3.0", "fps": 10, "robot_type": "so100", "total_episodes": 3}
    described |= {"splits": {"train": "0:2", "test": "2:3"}, "features": lerobot_features()} | info
    (root / "meta/info.json").write_text(json.dumps(described))
    shapes = {"action": 2, "observation.state": 3, "observation.gripper": 1, "observation.count": 1}
    stats = {k: {"mean": [0.0] * n, "std": [1.0] * n, "count": [9]} for k, n in shapes.items()}
    stats["observation.grid"] = {"mean": [0.0, 0.0], "count": [9]}  # LeRobot's own, of shape (2, 2)
    (root / "meta/stats.json").write_text(json.dumps(stats))
    return root


def as_lerobot(episodes):
    names = {"gripper": "observation.gripper", "count": "observation.count"}
    return [{names.get(name, name): values for name, values in e.items()} for e in episodes]


def test_lerobot(tmp_path):
    episodes = drawn()
    found = read_demonstrations(write_lerobot_files(tmp_path / "set", episodes))
    assert_holds(found, as_lerobot(episodes), LEROBOT, [TASKS[t] for t in TASK_OF])
    assert found.tasks == ("lift the cube", "push the cube")
    assert found.about["left_out"] == ["observation.image"]
    assert (found.about["fps"], found.about["robot_type"]) == (10, "so100")
    assert found.about["splits"] == {"train": [0, 1], "test": [2]}
    grid = read_demonstrations(tmp_path / "set", ["observation.grid"]).episodes.steps["observation.grid"]
    expected = [np.arange(4 * n).reshape(n, 2, 2) + s for n, s in zip(LENGTHS, (0, 3, 4), strict=True)]
    np.testing.assert_array_equal(grid, np.concatenate(expected))
    with pytest.raises(
        ValueError, match=r"set: fields: got \['observation.image'\], allowed: some of .*state"
    ):
        read_demonstrations(tmp_path / "set", ["observation.image"])


def test_lerobot_rows_in_any_order(tmp_path):
    import pyarrow.parquet as pq

    episodes = drawn()
    root = write_lerobot_files(tmp_path / "set", episodes)
    for file in root.rglob("file-*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.take(np.arange(table.num_rows)[::-1].tolist()), file)
    assert_holds(read_demonstrations(root), as_lerobot(episodes), LEROBOT, [TASKS[t] for t in TASK_OF])


def change_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def change_table(path, change):
    import pyarrow.parquet as pq

    pq.write_table(change(pq.read_table(path)), path)


def column(name, change):
    """A table with one column's values changed."""

    def apply(table):
        import pyarrow as pa

        values = change(table.column(name).to_pylist())
        return table.set_column(table.schema.get_field_index(name), name, pa.array(values))

    return apply


def info(change):
    return lambda root: change_json(root / "meta/info.json", change)


def stats(change):
    return lambda root: change_json(root / "meta/stats.json", change)


def data(change):
    return lambda root: change_table(root / "data/chunk-000/file-001.parquet", change)


def meta(change, name="episodes/chunk-000/file-000"):
    return lambda root: change_table(root / f"meta/{name}.parquet", change)


def cut(name):
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-20])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            info(lambda i: i.update(codebase_version="v2.1")),
            r"info.json: codebase_version: got 'v2.1', allowed: v3",
        ),
        (info(lambda i: i.pop("features")), r"info.json: keys: got .*allowed: features"),
        (info(lambda i: i["features"].pop("action")), r"set: features: got .*allowed: 'action' among them"),
        (
            info(lambda i: i["features"]["action"].pop("shape")),
            r"features.action: got .*allowed: a dtype and",
        ),
        (
            data(column("action", lambda v: [[*a, 0.0] for a in v])),
            r"file-001.parquet: action: shape of a step: got \(3,\), allowed: \(2,\)",
        ),
        (
            stats(lambda s: s["action"].update(mean=[0.0])),
            r"stats.json: action.mean: shape: got \(1,\), allowed: \(2,",
        ),
        (
            stats(lambda s: s["action"].update(std=3.0)),
            r"stats.json: action.std: shape: got \(1,\), allowed: \(2,\)",
        ),
        (stats(lambda s: s["observation.state"].update(max=[[1], [2, 3]])), r"observation.state.max: shape"),
        (
            data(lambda t: t.drop_columns(["action"])),
            r"file-001.parquet: columns: got .*\['action'\] among them",
        ),
        (
            data(lambda t: t.slice(0, 5)),
            r"data: episode 2: rows: got 4, allowed: 5, its length in meta/episodes",
        ),
        (data(lambda t: t.slice(1)), r"set: episodes: got \[1\], allowed: one entry in meta/episodes"),
        (data(column("frame_index", lambda v: [0, 0, 1, 2, 4, 5])), r"episode 2: frame_index: got 'gaps"),
        (
            data(column("action", lambda v: [[1.0], *v[1:]])),
            r"file-001.parquet: action: lengths of rows: got",
        ),
        (
            data(column("action", lambda v: [*v[:-1], None])),
            r"file-001.parquet: action: lengths of rows: got",
        ),
        (
            data(column("action", lambda v: [*v[:-1], [0.0, None]])),
            r"action: empty values: got 1, allowed: 0",
        ),
        (
            data(column("observation.gripper", lambda v: [np.nan, *v[1:]])),
            r"observation.gripper'\]: episode 1: got 'NaN",
        ),
        (
            data(column("task_index", lambda v: [5] * 6)),
            r"data: task_index: got \[5\], allowed: numbers in tasks",
        ),
        (meta(column("length", lambda v: [3, 2, 5])), r"episode 1: rows: got 1, allowed: 2, its length"),
        (meta(lambda t: t.slice(0, 2)), r"set: episodes: got \[2\], allowed: one entry"),
        (
            meta(lambda t: t.drop_columns(["__index_level_0__"]), "tasks"),
            r"tasks.parquet: columns: got .*'task'",
        ),
        (cut("data/chunk-000/file-001.parquet"), r"file-001.parquet: got .*allowed: a whole Parquet file"),
        (cut("meta/tasks.parquet"), r"tasks.parquet: got .*allowed: a whole Parquet file"),
        (cut("meta/info.json"), r"info.json: got .*allowed: a whole JSON file"),
        (cut("meta/stats.json"), r"stats.json: got .*allowed: a whole JSON file"),
        (lambda root: shutil.rmtree(root / "data"), r"set/data: files: got 0, allowed: chunk-000/file-000"),
    ],
)
def test_bad_lerobot(tmp_path, change, message):
    root = write_lerobot_files(tmp_path / "set", drawn())
    change(root)
    with pytest.raises(ValueError, match=message) as error:
        read_demonstrations(root)
    assert "set" in str(error.value)


def made(lengths=LENGTHS, fields=("action", "state")):
    episodes = drawn(lengths)
    steps = {name: joined(episodes, name) for name in fields}
    task = np.arange(len(lengths))[::-1] % 2
    ends = np.cumsum(lengths)
    return Demonstrations(Episodes(steps, ends, task), ("go left", "go right"), {"seed": 3, "fps": 5})


@pytest.mark.parametrize("fields", [("action", "state"), ("action", "state", "image", "count")])
def test_lerobot_comes_back(tmp_path, fields):
    given = made(fields=fields)
    write_lerobot(tmp_path / "set", given, fps=5)
    found = read_demonstrations(tmp_path / "set")
    for name in ("action", "state"):
        np.testing.assert_array_equal(found.episodes.steps[name], given.episodes.steps[name])
    np.testing.assert_array_equal(found.episodes.ends, given.episodes.ends)
    np.testing.assert_array_equal(found.episodes.task, given.episodes.task)
    assert (found.tasks, found.about["fps"]) == (given.tasks, 5)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_lerobot_files_hold_what_lerobot_expects(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    given, root = made(), tmp_path / "set"
    root.mkdir()  # an empty folder may stand there
    write_lerobot(root, given, fps=5)
    info = json.loads((root / "meta/info.json").read_text())
    numbers = (info["total_episodes"], info["total_frames"], info["total_tasks"], info["splits"])
    assert numbers == (3, 9, 2, {"train": "0:3"})
    assert info["data_path"].format(chunk_index=0, file_index=0) == "data/chunk-000/file-000.parquet"
    file = pq.ParquetFile(root / "data/chunk-000/file-000.parquet")
    assert file.num_row_groups == 3
    table = file.read()
    assert set(table.column_names) == set(info["features"])
    assert table.schema.field("observation.state").type == pa.list_(pa.float32(), 3)
    assert table.schema.field("task_index").type == pa.int64()
    np.testing.assert_allclose(table["timestamp"], np.asarray([0, 1, 2, 0, 0, 1, 2, 3, 4]) / 5, rtol=1e-6)
    assert table["frame_index"].to_pylist() == [0, 1, 2, 0, 0, 1, 2, 3, 4]
    assert table["episode_index"].to_pylist() == [0, 0, 0, 1, 2, 2, 2, 2, 2]
    assert table["task_index"].to_pylist() == [0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert table["index"].to_pylist() == list(range(9))
    episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    told = [(e["dataset_from_index"], e["dataset_to_index"], e["length"], e["tasks"]) for e in episodes]
    assert told == [(0, 3, 3, ["go left"]), (3, 4, 1, ["go right"]), (4, 9, 5, ["go left"])]
    state = given.episodes.steps["state"]
    np.testing.assert_allclose(episodes[2]["stats/observation.state/std"], state[4:].std(axis=0), rtol=1e-5)
    stats = json.loads((root / "meta/stats.json").read_text())
    assert set(stats) == set(info["features"])
    np.testing.assert_array_equal(stats["observation.state"]["max"], state.max(axis=0))
    np.testing.assert_allclose(stats["observation.state"]["q10"], np.quantile(state, 0.1, axis=0), rtol=1e-5)
    assert stats["action"]["count"] == [9]
    tasks = pq.read_table(root / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    assert tasks.to_pydict() == {"task_index": [0, 1], "task": ["go left", "go right"]}


def test_lerobot_in_several_files(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(lerobot_writer, "_MEGABYTES_IN_FILE", 200 / 2**20)  # 56 bytes a step
    monkeypatch.setattr(lerobot_writer, "_FILES_IN_CHUNK", 2)
    given = made((2, 2, 9, 1, 1, 1))
    write_lerobot(tmp_path / "set", given, fps=5)
    files = sorted(str(p.relative_to(tmp_path / "set/data")) for p in tmp_path.glob("set/data/*/*"))
    names = [f"chunk-{i // 2:03d}/file-{i % 2:03d}" for i in range(4)]
    assert files == [f"{name}.parquet" for name in names]
    found = read_demonstrations(tmp_path / "set").episodes
    np.testing.assert_array_equal(found.steps["state"], given.episodes.steps["state"])
    np.testing.assert_array_equal(found.ends, given.episodes.ends)


@pytest.mark.parametrize(
    ("change", "fps", "message"),
    [
        (lambda d: d, 0, "fps: got 0, allowed: an integer >= 1"),
        (
            lambda d: d._replace(tasks=("a", "a")),
            5,
            "demonstrations.tasks: got .*allowed: sentences that differ",
        ),
        (
            lambda d: d._replace(tasks=("a",)),
            5,
            "demonstrations: task: got 1, allowed: numbers of its 1 tasks",
        ),
        (lambda d: d.episodes.steps.pop("state") is None or d, 5, "fields: got .*'state' among them"),
    ],
)
def test_lerobot_refuses_and_leaves_nothing(tmp_path, change, fps, message):
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=message):
        write_lerobot(tmp_path / "set", change(made()), fps)
    assert not list(tmp_path.iterdir())


def test_lerobot_never_overwrites_and_is_whole_or_absent(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"folder: got .*set', allowed: an empty folder"):
        write_lerobot(tmp_path / "set", made(), 5)
    with pytest.raises(ValueError, match=r"folder: got .*mine.txt', allowed: an empty folder"):
        write_lerobot(tmp_path / "set" / "mine.txt", made(), 5)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(lerobot_writer, "_write_tasks", fail)
    with pytest.raises(OSError, match="disk full"):
        write_lerobot(tmp_path / "new", made(), 5)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["mine.txt", "set"]


# --- RLDS


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def rlds_features(nested):
    tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")
    f = tfds.features
    action = f.Tensor(shape=(2,), dtype=np.float32)
    observation = {
        "state": f.Tensor(shape=(3,), dtype=np.float64, encoding="zlib"),
        "gripper": f.Scalar(dtype=np.float32),
        "count": f.Tensor(shape=(1,), dtype=np.int64),
        "image": f.Image(shape=(4, 5, 3)),
    }
    steps = {
        "observation": f.FeaturesDict(observation),
        "action": f.FeaturesDict({"pose": action, "stop": f.Scalar(dtype=np.bool_)}) if nested else action,
        "language_instruction": f.Text(),
        "is_last": f.Scalar(dtype=np.bool_),
    }
    return f.FeaturesDict({"steps": f.Dataset(steps), "episode_metadata": f.FeaturesDict({"file": f.Text()})})


def rlds_example(features, episode, sentence, nested):
    n = len(episode["action"])
    steps = [
        {
            "observation": {
                "state": episode["state"][i].astype(np.float64),
                "gripper": episode["gripper"][i],
                "count": episode["count"][i],
                "image": io.BytesIO(png(episode["image"][i])),
            },
            "action": {"pose": episode["action"][i], "stop": False} if nested else episode["action"][i],
            "language_instruction": sentence,
            "is_last": i == n - 1,
        }
        for i in range(n)
    ]
    return features.serialize_example({"steps": steps, "episode_metadata": {"file": "a.npy"}})


def write_records(path, kind, records):
    if kind == "array_record":
        module = pytest.importorskip("array_record.python.array_record_module")
        writer = module.ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        return
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer").RecordWriter
    with path.open("wb") as stream:
        for record in records:
            writer(stream).write(record)


def write_rlds(root, groups, sentences, kind="tfrecord", nested=False):
    """What `tfds build` leaves of a data set with the given episodes in its splits."""
    features = rlds_features(nested)
    folder = root / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    features.save_config(str(folder))
    splits = []
    for split, episodes in groups.items():
        pairs = zip(episodes, sentences[split], strict=True)
        records = [rlds_example(features, e, s, nested) for e, s in pairs]
        shards = [records[:2], records[2:]] if len(records) > 2 else [records]
        for i, shard in enumerate(shards):
            write_records(folder / f"tiny-{split}.{kind}-{i:05d}-of-{len(shards):05d}", kind, shard)
        lengths = [str(len(shard)) for shard in shards]
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        splits.append({"name": split, "shardLengths": lengths, "numBytes": "9", "filepathTemplate": template})
    described = {"name": "tiny", "version": "1.0.0", "fileFormat": kind, "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(described))
    return folder


SENTENCES = {"train": ["pick", "place", "pick"], "val": ["fold", "place"]}


@pytest.mark.parametrize("kind", ["tfrecord", "array_record"])
def test_rlds(tmp_path, kind):
    groups = {"train": drawn(), "val": drawn((2, 4), seed=5)}
    folder = write_rlds(tmp_path, groups, SENTENCES, kind)
    everything = [*groups["train"], *groups["val"]]
    sentences = [*SENTENCES["train"], *SENTENCES["val"]]
    found = read_demonstrations(folder)
    assert_holds(found, everything, VECTORS, sentences)
    assert found.about["splits"] == {"train": [0, 1, 2], "val": [3, 4]}
    assert "tensorflow" not in sys.modules
    some = read_demonstrations(folder, fields=["image", "state"])
    assert_holds(some, everything, ("image", "state"), sentences)


def test_rlds_nested_actions_and_names(tmp_path):
    folder = write_rlds(tmp_path, {"train": drawn()}, {"train": [""] * 3}, nested=True)
    with pytest.raises(
        ValueError, match=r"1.0.0: features: got .*steps/action/pose.*allowed: .*'steps/action'"
    ):
        read_demonstrations(folder)
    found = read_demonstrations(folder, action="action/pose")
    assert_holds(found, drawn(), VECTORS, ["tiny"] * 3)
    with pytest.raises(ValueError, match=r"fields: got \['speed'\], allowed: some of count, gripper, image"):
        read_demonstrations(folder, ["speed"], "action/pose")


@pytest.mark.parametrize("kind", ["tfrecord", "array_record"])
def test_bad_rlds(tmp_path, kind):
    folder = write_rlds(tmp_path, {"train": drawn()}, {"train": ["a"] * 3}, kind)
    first, second = sorted(folder.glob("tiny-train*"))
    whole = first.read_bytes()
    first.write_bytes(whole[:-7])
    with pytest.raises(ValueError, match=r"tiny-train.*00000-of-00002.*allowed: (whole|a whole)"):
        read_demonstrations(folder)
    first.write_bytes(whole)
    second.rename(folder / "elsewhere")
    with pytest.raises(
        ValueError, match=r"1.0.0: split 'train': got 'no tiny-train.*00001-of-00002', allowed"
    ):
        read_demonstrations(folder)
    change_json(folder / "dataset_info.json", lambda d: d["splits"][0].update(shardLengths=["3"]))
    first.rename(folder / f"tiny-train.{kind}-00000-of-00001")
    with pytest.raises(ValueError, match=r"1.0.0: split 'train': episodes: got 2, allowed: 3"):
        read_demonstrations(folder)
    change_json(folder / "dataset_info.json", lambda d: d.update(fileFormat="riegeli"))
    with pytest.raises(
        ValueError, match=r"1.0.0: file_format: got 'riegeli', allowed: array_record or tfrecord"
    ):
        read_demonstrations(folder)


def test_rlds_records_that_are_no_episodes(tmp_path):
    folder = write_rlds(tmp_path, {"train": drawn()}, {"train": ["a"] * 3})
    write_records(sorted(folder.glob("tiny-train*"))[0], "tfrecord", [b"nonsense", b"more"])
    with pytest.raises(ValueError, match=r"1.0.0: train\[0\]: got .*allowed: a whole episode"):
        read_demonstrations(folder)
    (folder / "features.json").write_text("{")
    with pytest.raises(ValueError, match=r"1.0.0: got .*allowed: a folder that TFDS prepared"):
        read_demonstrations(folder)


# --- our own


def test_npz_comes_back(tmp_path):
    given = made(fields=("action", "state", "image", "count"))
    write_demonstrations(tmp_path / "a.npz", given)
    found = read_demonstrations(tmp_path / "a.npz")
    assert_holds(found, drawn(), ("state", "image", "count"), ["go left", "go right", "go left"])
    assert (found.tasks, found.about) == (given.tasks, given.about)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    some = read_demonstrations(tmp_path / "a.npz", ["state"], action="count")
    assert set(some.episodes.steps) == {"action", "state"}
    np.testing.assert_array_equal(some.episodes.steps["action"], joined(drawn(), "count"))


def arrays(**changes):
    steps = {f"steps/{name}": values for name, values in made().episodes.steps.items()}
    whole = steps | {"ends": np.asarray(ENDS), "task": np.zeros(3, int)}
    whole |= {"tasks": np.asarray(["go"]), "about": np.asarray("{}")} | changes
    return {name: np.asarray(values) for name, values in whole.items() if values is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ends": None}, r"a.npz: arrays: got .*allowed: 'ends' among them"),
        ({"steps/action": None}, r"a.npz: arrays: got .*allowed: 'steps/action' among them"),
        ({"ends": [3.0, 4.0, 9.0]}, r"a.npz: ends: type: got 'float64'"),
        ({"ends": [[3, 4, 9]]}, r"a.npz: ends: shape: got \(1, 3\), allowed: one dimension"),
        ({"ends": [3, 3, 9]}, r"a.npz: episode 1: got 0, allowed: 1 steps or more"),
        ({"ends": [3, 4, 8]}, r"a.npz: rows: got .*allowed: 8"),
        ({"steps/state": np.zeros((8, 3))}, r"a.npz: rows: got .*'state': 8.*allowed: 9"),
        ({"steps/state": np.full((9, 3), np.inf)}, r"a.npz\['state'\]: episode 0: got 'NaN or infinity'"),
        ({"steps/action": np.zeros((9, 2, 2))}, r"a.npz: action: shape: got \(9, 2, 2\)"),
        ({"task": [0, 1, 0]}, r"a.npz: task: got 1, allowed: numbers of its 1 tasks"),
        ({"task": [0, -1, 0]}, r"a.npz: task: got -1, allowed: numbers of its 1 tasks"),
        ({"about": "{"}, r"a.npz: about: got .*allowed: JSON"),
    ],
)
def test_bad_npz(tmp_path, changes, message):
    np.savez(tmp_path / "a.npz", **arrays(**changes))
    with pytest.raises(ValueError, match=message):
        read_demonstrations(tmp_path / "a.npz")


def test_npz_read_by_fields_that_are_not_there_or_cut_short(tmp_path):
    path = tmp_path / "a.npz"
    write_demonstrations(path, made())
    with pytest.raises(ValueError, match=r"a.npz: fields: got \['speed'\], allowed: some of state"):
        read_demonstrations(path, ["speed"])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a.npz: got .*allowed: a .npz file"):
        read_demonstrations(path)
    middle = len(whole) // 3
    path.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    with pytest.raises(ValueError, match=r"a.npz: got .*allowed: a"):
        read_demonstrations(path)


def test_npz_is_whole_or_as_before(tmp_path, monkeypatch):
    write_demonstrations(tmp_path / "a.npz", made())
    before = (tmp_path / "a.npz").read_bytes()

    def fail(path, **_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        write_demonstrations(tmp_path / "a.npz", made((2, 2)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    assert (tmp_path / "a.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("a.txt", lambda d: d, r"path: got .*a.txt', allowed: a name that ends in .npz"),
        (
            "a.npz",
            lambda d: d._replace(about={"x": {1, 2}}),
            r"demonstrations.about: got .*allowed: what JSON",
        ),
        ("a.npz", lambda d: d._replace(tasks=()), r"demonstrations: task: got 0, allowed: numbers of its 0"),
    ],
)
def test_nothing_bad_is_written(tmp_path, name, change, message):
    with pytest.raises(ValueError, match=message):
        write_demonstrations(tmp_path / name, change(made()))
    assert not list(tmp_path.iterdir())


# --- all of them


def test_what_is_no_demonstration_is_refused_with_what_is(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"film")
    for path in (tmp_path / "a.mp4", tmp_path / "absent", tmp_path):
        with pytest.raises(
            ValueError, match=rf"demonstrations: got '{path}', allowed: an .npz.*zarr.*LeRobot"
        ):
            read_demonstrations(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n and no more"])
@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".zip"])
def test_broken_files_are_named(tmp_path, suffix, content):
    pytest.importorskip({".hdf5": "h5py", ".zip": "zarr", ".npz": "numpy"}[suffix])
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"broken{suffix}: got .*allowed: a"):
        read_demonstrations(path)


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_hdf5_cut_short(tmp_path, cut):
    path = write_hdf5(tmp_path / "a.hdf5", drawn())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(ValueError, match=r"a.hdf5: got .*allowed: a whole HDF5 file"):
        read_demonstrations(path)


@pytest.mark.parametrize(
    ("write", "module", "extra"),
    [
        (lambda p: write_hdf5(p / "a.hdf5", drawn()), "h5py", "robots"),
        (lambda p: write_zarr(p / "a.zarr", drawn()), "zarr", "robots"),
        (lambda p: write_lerobot_files(p / "set", drawn()), "pyarrow.parquet", "robots"),
        (lambda p: write_rlds(p, {"train": drawn()}, {"train": ["a"] * 3}), "tensorflow_datasets", "tfds"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, write, module, extra):
    path = write(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'{module} is needed here: pip install "diffax\[{extra}\]"'):
        read_demonstrations(path)


@pytest.mark.parametrize(
    "write",
    [
        lambda p: write_hdf5(p / "a.hdf5", drawn()),
        lambda p: write_zarr(p / "a.zarr", drawn()),
        lambda p: write_lerobot_files(p / "set", drawn()),
        lambda p: write_rlds(p, {"train": drawn()}, {"train": ["a"] * 3}),
    ],
    ids=["hdf5", "zarr", "lerobot", "rlds"],
)
def test_windows_over_files_never_cross_an_episode(tmp_path, write):
    windows, episodes = Windows(read_demonstrations(write(tmp_path)).episodes, horizon=4, history=2), drawn()
    assert len(windows) == sum(LENGTHS)
    where = [(e, t) for e, n in enumerate(LENGTHS) for t in range(n)]
    for i, (episode, t) in enumerate(where):
        item, own = windows[i], episodes[episode]
        np.testing.assert_array_equal(item["state"], own["state"][[max(t - 1, 0), t]])
        left = min(4, LENGTHS[episode] - t)
        np.testing.assert_array_equal(item["mask"], np.arange(4) < left)
        np.testing.assert_array_equal(item["action"][:left], own["action"][t : t + left])
        np.testing.assert_array_equal(item["action"][left:], np.repeat(own["action"][-1:], 4 - left, axis=0))


def test_sentences_are_numbered_as_they_occur():
    task, tasks = shared.number_tasks(["b", "a", "b", "c"])
    assert (task.tolist(), tasks) == ([0, 1, 0, 2], ("b", "a", "c"))
