"""Run notebooks in fresh kernels, and store what they print and draw.

    python notebooks/execute.py [FILE ...]

Without files: all of this folder, in place. ``make notebooks`` calls this.
"""

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent


def run(path: Path, timeout: int = 300) -> nbformat.NotebookNode:
    """The notebook with outputs of a fresh kernel, which imports this checkout; raises at the first error."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    return client.execute(env=environment())


def environment() -> dict[str, str]:
    """This one's, but with the checkout to import from, and devices left to the notebook."""
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(FOLDER.parent), env.get("PYTHONPATH")]))
    env.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    return env


def main(arguments: list[str]) -> None:
    """Execute in place."""
    for path in [Path(name) for name in arguments] or sorted(FOLDER.glob("*.ipynb")):
        start = time.perf_counter()
        notebook = run(path)
        # the kernel's own version and name of the machine's environment say nothing about the notebook
        notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)


KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}

if __name__ == "__main__":
    main(sys.argv[1:])
