"""Small runs in Toyland for the tests: three leaves, models by name, no program started."""

import asyncio
import json
import os
import threading
from contextlib import contextmanager

from scripted_server import scripted_server

from experiments.sage_rt import guard, settings, stages, toyland, toymodels
from experiments.sage_rt.backends.scripted import ScriptedBackend
from experiments.sage_rt.pipeline import Run
from experiments.sage_rt.store import Store
from experiments.sage_rt.taxonomy import load_taxonomy

FREE = {"operator": "a tester", "purpose": "a test", "target_owner_confirmation": "mine"}


def small_config(**changes):
    """The variant "smoke" with changes of flat names, dots as two underscores."""
    config = settings.variant_of("smoke")
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


def small_taxonomy(folder, leaves=3):
    """A file with some of Toyland's nouns as leaves of one family each."""
    nouns = list(toyland.world().lookalike)[:: 279 // leaves][:leaves]
    rows = [{"id": "toys", "name": "toys"}]
    rows += [{"id": f"f{noun}", "name": f"{noun} family", "parent": "toys"} for noun in nouns]
    rows += [{"id": f"n{noun}", "name": noun, "parent": f"f{noun}"} for noun in nouns]
    file = folder / "taxonomy.json"
    file.write_text(json.dumps({"name": "toys", "policy": "Decline the toys.", "nodes": rows}))
    return file


@contextmanager
def small_run(folder, taxonomy=None, generator=toymodels.generator, target=toymodels.target, **changes):
    """A run in a folder of its own; its processes' mask of modes is put back."""
    mask = os.umask(0o077)
    config = small_config(taxonomy=str(taxonomy or small_taxonomy(folder)), **changes)
    plays = {"generator": generator, "aligned": toymodels.generator, "target": target, "judge": lambda _: ""}
    backends = {role: ScriptedBackend(play, name=role) for role, play in plays.items()}
    store = Store(guard.private_folder(folder / "run"))
    try:
        yield Run(config, load_taxonomy(config.taxonomy), store, backends)
    finally:
        store.close()
        os.umask(mask)


def shards(folder):
    """Every Parquet file's content by its name."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.glob("data/*/*")}


def evaluated(run):
    """All stages; the verdicts' outcomes by query."""
    stages.generate(run)
    stages.respond(run)
    return {row.inputs["query"]: row.result["outcome"] for row in run.store.rows(stages.judge(run))}


def fresh(folder):
    """The folder, made."""
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def server_in_a_thread(*args, **options):
    """The scripted server until the block ends, so that programs can be waited for."""
    started, box = threading.Event(), {}

    async def serve():
        box["loop"], box["end"] = asyncio.get_running_loop(), asyncio.Event()
        async with scripted_server(*args, **options) as box["server"]:
            started.set()
            await box["end"].wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(20)
    try:
        yield box["server"]
    finally:
        box["loop"].call_soon_threadsafe(box["end"].set)
        thread.join(20)
