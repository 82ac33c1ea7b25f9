"""Every notebook runs from top to bottom, its claims hold, and what it stores is what a reader should see."""

import os
import re
from pathlib import Path

import jax
import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(scope="module")
def execute():
    """``notebooks/execute.py``, with the tests' compilation cache."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
        yield __import__("execute")


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def text_of(output):
    data = output.get("data", {})
    return "\n".join([output.get("text", ""), *(str(v) for k, v in data.items() if k.startswith("text/"))])


def test_there_are_four_and_the_readme_names_each():
    readme = (FOLDER / "README.md").read_text()
    assert len(NOTEBOOKS) == 4
    assert all(f"({path.name})" in readme for path in NOTEBOOKS)


@pytest.mark.slow  # or `make notebooks`
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestExecuted:
    def test_runs_in_a_fresh_kernel_without_warnings(self, path, execute):
        fresh = outputs(execute.run(path, timeout=120))
        assert [output.text for output in fresh if output.get("name") == "stderr"] == []
        stored = outputs(nbformat.read(path, as_version=4))
        assert [output.output_type for output in fresh] == [output.output_type for output in stored]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_is_stored_as_executed_in_order(self, path):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
        assert counts == list(range(1, len(counts) + 1))
        assert notebook.cells[0].cell_type == "markdown"
        assert notebook.cells[0].source.startswith("# ")

    def test_stores_pictures_and_nothing_of_the_machine(self, path):
        stored = outputs(nbformat.read(path, as_version=4))
        assert all(output.output_type in ("stream", "display_data") for output in stored)
        assert all(output.get("name") != "stderr" for output in stored)
        private = re.compile(rf"(?<![\w.])/(home|root|tmp|usr|work)\b|{re.escape(os.uname().nodename)}")
        assert [text_of(output) for output in stored if private.search(text_of(output))] == []
        pictures = [output.data["image/png"] for output in stored if "image/png" in output.get("data", {})]
        assert pictures
        assert max(map(len, pictures)) < 4 / 3 * 60_000  # base64
