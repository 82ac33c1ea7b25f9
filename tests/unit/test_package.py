"""The package as a whole: light imports, one-way imports, documented and typed functions."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "diffax").rglob("*.py"))


def test_import_is_light():
    """diffax adds no heavy package, and under a second, to jax, flax and optax."""
    code = """
import sys, time
import flax.linen, jax, jax.numpy, optax
start = time.perf_counter()
import diffax
seconds = time.perf_counter() - start
heavy = {"tensorflow", "torch", "tensorflow_datasets", "orbax", "matplotlib"} & set(sys.modules)
print(seconds, sorted(heavy))
assert not heavy, heavy
assert seconds < 1.0, seconds
diffax.training, diffax.io, diffax.data, diffax.evaluation
assert not {"tensorflow", "torch", "tensorflow_datasets", "matplotlib"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_imports_run_one_way():
    pytest.importorskip("importlinter")
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def public_functions(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            owner = node.parent
            hidden = isinstance(owner, ast.ClassDef) and owner.name.startswith("_")
            if isinstance(owner, (ast.Module, ast.ClassDef)) and not hidden:
                yield node


@pytest.mark.parametrize("path", SOURCES, ids=[str(p.relative_to(ROOT)) for p in SOURCES])
def test_public_functions_are_documented_and_typed(path):
    assert ast.get_docstring(ast.parse(path.read_text())) or path.read_text() == "", (
        "a module without a docstring"
    )
    for node in public_functions(path):
        protocol = any(isinstance(n, ast.Expr) and getattr(n.value, "value", None) is ... for n in node.body)
        assert protocol or ast.get_docstring(node), f"{path.name}:{node.lineno} {node.name} has no docstring"
        assert node.returns is not None, f"{path.name}:{node.lineno} {node.name} has no return type"
        arguments = [*node.args.args, *node.args.kwonlyargs]
        bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        assert not bare, f"{path.name}:{node.lineno} {node.name}: {bare} have no type"


def test_functions_are_short():
    lengths = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                lengths.append((node.end_lineno - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.name}"))
    longest = sorted(lengths, reverse=True)
    assert longest[0][0] <= 80, longest[:5]
    assert sum(n <= 40 for n, _ in lengths) >= 0.9 * len(lengths)


def test_the_library_names_no_paper():
    """Methods live in experiments; in diffax their names may only stand in a citation."""
    for path in SOURCES:
        for name in (
            "ddgan",
            "radrotator",
            "fdistill",
            "f_distill",
            "mbir",
            "sage_rt",
            "modegpt",
            "mode_policy",
        ):
            assert name not in path.read_text().lower(), f"{path} names {name}"
