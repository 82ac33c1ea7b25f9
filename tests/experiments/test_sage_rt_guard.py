"""Guard rails: what may be generated, sent and written, what is shown, what the package holds."""

import hashlib
import os
import re
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from launching import launch_module
from sage_runs import FREE, evaluated, fresh, server_in_a_thread, small_config, small_run

from experiments.sage_rt import guard, purge, report, session, stages
from experiments.sage_rt.guard import ResponsibleUseError
from experiments.sage_rt.prompts import template
from experiments.sage_rt.tasks import make_task
from experiments.sage_rt.taxonomy import Node, Taxonomy, load_taxonomy

PACKAGE = Path(guard.__file__).parent
DENIED = ("weapon_biological", "weapon_chemical", "weapon_radioactive")

DATA = {
    "taxonomies/alert.json": "c3290a09e39b102cc82df2080cdb8c73cb30ab89b7b65edc74edeee30c29fd2f",
    "templates/control.txt": "431fe4ffa2843d6c5c4507120d94a1bd3d798235ebd065b16bf1d52a2bfc9fa2",
    "templates/expand.txt": "c2470c59dab78daa1dad3f4cffab1d2877feeffe5ec0af45943b0611cee301cb",
    "templates/extract.txt": "71b76a5ce6ba83e670749582e775be47bbc3724661890c8be042f010d401e661",
    "templates/judge.txt": "bb875c858ae36ca9f328cd04d79e6b3eeb3e6a736dbb4a8b357274cb5538b864",
    "templates/raw.txt": "56b0f863fbe6e4249c84550c71d8965e04bb5886df5510965ce59fa3ce8acba9",
    "templates/safe.txt": "f297e3c7125bbc71dd40c03236417614ef2d7f7ddbdd7e9d01150d1626f5a12b",
}
VOCABULARY = """
a about across allowed allows an and answer answered answers anything apply are as ask asks assistant at
be category changes characters choose clearly close come confidence contain content data decline declines
degenerate details each else for form friendly from further give gives help helpfully holds how in
instructions is it its json judge keeps known leave list long make many message might most much name
names necessary no none not nothing noun number object of offer on one only or otherwise out own path
people person phrase policy rationale refusal request requests response s safe_answer send sensible
sentences settings should situations steps strings style task test text that the them they to too topic
topics touch twelve two unsafe user verdict what where whether which why with within words write you your
"""


@pytest.fixture
def flags(monkeypatch, tmp_path):
    """The flags of programs that run within the test, as a dictionary to change."""
    values = {"workdir": str(tmp_path / "run"), "accept_responsible_use": True, "allow_host": []}
    values |= {"yes": False, "config": small_config()}

    class Flags:
        def flag_values_dict(self):
            return values

        def __getitem__(self, name):
            return SimpleNamespace(value=values[name])

    for module in (session, purge):
        monkeypatch.setattr(module, "flags", SimpleNamespace(FLAGS=Flags()))
    mask = os.umask(0o077)
    yield values
    os.umask(mask)


def opened(flags, **changes):
    flags["config"] = small_config(**changes)
    with session.open_run(["generator"]) as run:
        return run


def declared(**changes):
    return {f"responsible_use__{name}": value for name, value in {**FREE, **changes}.items()}


def test_a_program_without_consent_sends_nothing(tmp_path):
    with server_in_a_thread() as server:
        about = {"kind": "http", "url": server.url, "model": "m"}
        flags = {"config": "configs/sage_rt/toyland.py:smoke", "config.taxonomy": "alert"}
        flags |= {f"config.generator.{name}": value for name, value in about.items()}
        done = launch_module("experiments.sage_rt.generate", workdir=tmp_path / "run", **flags)
        assert (done.returncode, done.stdout, server.log) == (2, "", [])
    assert done.stderr == (
        "error: --accept_responsible_use: got False, allowed: True for the taxonomy 'alert'\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", guard.FIELDS)
def test_every_field_of_the_declaration_counts(flags, tmp_path, field):
    with pytest.raises(ResponsibleUseError, match=f"config.responsible_use.{field}: got ''"):
        opened(flags, taxonomy="alert", **declared(**{field: "  "}))
    assert not (tmp_path / "run").exists()
    assert opened(flags, taxonomy="alert", **declared()).taxonomy.name == "alert"


def test_what_is_only_called_toyland_is_not_free():
    mine = Taxonomy("toyland", [Node("a", "plums")], "Decline plums.")
    with pytest.raises(ResponsibleUseError, match="--accept_responsible_use"):
        guard.check_use(mine, False, FREE)
    guard.check_use(load_taxonomy("toyland"), False, {})


@pytest.mark.parametrize("name", ["minors", "Children's", "TEENAGERS", "under_kids", "CBRN", "Nuclear-1"])
def test_denied_names(name):
    tree = Taxonomy("t", [Node("a", name), Node("b", "plain", "a"), Node("c", "kidneys")], "p")
    for node in ("a", "b"):
        with pytest.raises(ResponsibleUseError, match=f"taxonomy node '{node}'"):
            guard.check_generation(tree, node)
    guard.check_generation(tree, "c")


def test_no_prompt_is_composed_for_denied_categories(tmp_path):
    """With every flag and declaration; requests that would be made by hand are refused as well."""
    asked = []
    play = lambda request: asked.append(request) or '["a neutral item", "something else"]'  # noqa: E731
    with small_run(tmp_path, "alert", generator=play, **declared()) as run:
        stages.generate(run)
        leaves = {
            row.inputs["leaf"] for stage in ("expand", "raw", "control") for row in run.store.rows(stage)
        }
        assert len(leaves) == 32 - len(DENIED)
        assert not leaves & set(DENIED)
        for request in asked:
            assert not guard.DENIED.search(request.messages[1].content.casefold())
        for stage in ("expand", "raw", "extract", "control"):
            with pytest.raises(ResponsibleUseError, match="taxonomy node 'weapon_chemical'"):
                stages._asker(run, stage)(make_task(stage, {"leaf": "weapon_chemical"}))


@pytest.mark.parametrize("role", ["generator", "aligned", "target", "judge"])
def test_other_machines_are_not_asked(role):
    settings = small_config()[role]
    settings.update({"kind": "http", "url": "http://example.org/v1", "model": "m"})
    with pytest.raises(ValueError, match=r"url: host: got 'example.org', allowed: a loopback address"):
        session.open_backend(settings, role, [], Path())
    assert session.open_backend(settings, role, ["example.org"], Path()).name.startswith("m@")


def test_folders_that_git_would_pick_up(tmp_path, flags):
    tree = fresh(tmp_path / "tree")
    subprocess.run(["git", "init", "-q", str(tree)], check=True)
    (tmp_path / "link").symlink_to(tree)
    for folder in (tree / "runs" / "a", tree, tmp_path / "link" / "a"):
        with pytest.raises(
            ValueError, match=r"--workdir: got .*, allowed: a folder outside any git work tree"
        ):
            guard.private_folder(folder)
    assert not (tree / "runs").exists()
    (tree / ".gitignore").write_text("/runs/\n")
    assert guard.private_folder(tree / "runs" / "a").is_dir()


def test_reports_show_no_text_unless_told(tmp_path):
    def target(request):
        return f"<script>alert({len(request.messages[0].content)})</script> plum"

    with small_run(tmp_path, "toyland", target=target) as run:
        evaluated(run)
        report.write(run)
        file = run.store.folder / "report.html"
        texts = [row.result["text"] for row in run.store.rows("query") if row.result["status"] == "ok"]
        quiet = "".join(path.read_text() for path in run.store.folder.glob("*.[hjm]*"))
        report.write(run, texts=True)
        page = file.read_text()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(texts) > 1000
    assert not [text for text in texts if text in quiet]
    assert "script" not in quiet.replace("default-src", "")
    assert 'class="banner"' not in quiet
    assert 'class="banner"' in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert sum(text in page for text in texts) >= 10


def test_purge_removes_runs_only(tmp_path, flags):
    opened(flags)
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="--yes: got False"):
        purge.program([])
    flags["yes"] = True
    other = fresh(tmp_path / "other")
    for content in (None, '{"experiment": "ddgan"}', "{}"):
        if content:
            (other / "config.json").write_text(content)
        flags["workdir"] = str(other)
        with pytest.raises(ValueError, match="workdir"):
            purge.program([])
    assert other.exists()
    flags["workdir"] = ""
    with pytest.raises(ValueError, match="workdir"):
        purge.program([])
    flags["workdir"] = str(folder)
    purge.program([])
    assert not folder.exists()


def test_the_package_holds_these_files_only():
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    others = {str(path.relative_to(PACKAGE)): path for path in files if path.suffix != ".py"}
    others.pop("README.md")
    for name in ("report.html", "compression.html"):  # their layout changes; they load nothing
        page = others.pop(name).read_text()
        assert not re.search(r"https?://|src=(?!\"data:)|@import|url\(", page)
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in others.items()} == DATA


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("templates/*.txt")), ids=lambda file: file.stem)
def test_templates_are_neutral(file):
    text = template(file.stem)
    assert set(re.findall(r"[a-z_]+", text.lower())) <= set(VOCABULARY.split())
    assert not re.search(r"\{\{|\{%|%\(|%s|\$\w|\{\w*\}", text)
