"""Result files: every figure comes back with what it was measured on; files are whole or absent."""

import json
import math

import pytest

from diffax.evaluation import Figure, Result, merge, random_features, read_result, write_result
from diffax.io.files import write_bytes

_FIGURES = [
    Figure("frechet", 1.25, 1437, 360, "test", random_features(1).label, 0),
    Figure("psnr", float("inf"), n_fake=12, split="val"),
    Figure("kl", float("nan")),
]


def test_figures_come_back_as_they_were(tmp_path):
    path = tmp_path / "run" / "result.json"
    written = write_result(path, _FIGURES, {"step": 100, "config": {"lr": 1e-3}})
    read = read_result(path)
    assert read.figures[:2] == tuple(_FIGURES[:2]) == written.figures[:2]
    assert math.isnan(read.figures[2].value)
    assert read.notes == {"step": 100, "config": {"lr": 1e-3}}
    assert read.value("frechet") == 1.25
    # strict JSON: any other reader takes it
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))


def test_intervals_come_back_and_older_files_lack_them(tmp_path):
    path = tmp_path / "result.json"
    figures = (Figure("a", 1.0, low=0.5, high=float("inf")), Figure("b", 1.0, low=float("nan"), high=2.0))
    write_result(path, figures)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    first, second = read_result(path).figures
    assert first == figures[0]
    assert math.isnan(second.low)
    assert second.high == 2.0
    assert first.identity == Figure("a", 7.0).identity
    older = {"name": "a", "value": "inf", "n_real": None, "n_fake": 3, "split": None, "extractor": None}
    path.write_text(json.dumps({"figures": [older | {"seed": 0}], "notes": {}}))
    assert read_result(path).figures == (Figure("a", float("inf"), n_fake=3, seed=0),)


def test_a_name_must_be_unique_to_be_asked_for():
    result = Result((Figure("a", 1.0, seed=0), Figure("a", 2.0, seed=1)))
    with pytest.raises(ValueError, match=r"name: got 'a', allowed: a name that one figure has, of \['a'\]"):
        result.value("a")
    with pytest.raises(ValueError, match="name: got 'b'"):
        result.value("b")


def test_merging_keeps_what_differs_and_the_later_of_what_is_the_same():
    first = Result((Figure("a", 1.0, 10, seed=0), Figure("a", 2.0, 10, seed=1)), {"x": 1, "y": 1})
    second = Result((Figure("a", 3.0, 10, seed=0), Figure("a", 4.0, 20, seed=0)), {"y": 2})
    merged = merge(first, second)
    assert sorted(figure.value for figure in merged.figures) == [2.0, 3.0, 4.0]
    assert merged.notes == {"x": 1, "y": 2}
    other = Figure("a", 9.0, 10, extractor={"name": "n", "digest": "d"}, seed=0)
    assert len(merge(merged, Result((other,))).figures) == 4


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_result(path, _FIGURES[:1])
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_result(path, _FIGURES, {"bad": object()})

    def fail(*_):
        raise OSError("disk full")

    for step in ("os.fsync", "pathlib.Path.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(step, fail)
            with pytest.raises(OSError, match="disk full"):
                write_bytes(path, b"half")
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_notes_must_be_json_that_everyone_reads(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_result(tmp_path / "result.json", _FIGURES, {"lr": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", ["", "{", '{"figures": [{"name": "a"}], "notes": {}}', '{"notes": {}}', "[1]"]
)
def test_other_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"result.json: got .*allowed: a file that write_result wrote"):
        read_result(path)
    with pytest.raises(ValueError, match=r"path: got '.*none.json', allowed: an existing"):
        read_result(tmp_path / "none.json")
