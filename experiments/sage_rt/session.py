"""A run's folder opened: configuration, taxonomy, queue, models; what is checked before anything is sent."""

import datetime
import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from diffax.checks import require, require_one_of
from diffax.io import write_json
from diffax.io.decoder_files import DecoderFiles
from experiments import main, workdir
from experiments.sage_rt import guard, toymodels
from experiments.sage_rt.backends.base import Backend
from experiments.sage_rt.backends.callback import CallbackBackend
from experiments.sage_rt.backends.flax_lm import FlaxBackend
from experiments.sage_rt.backends.http import HttpBackend
from experiments.sage_rt.backends.scripted import ScriptedBackend
from experiments.sage_rt.chat_model import ChatModel
from experiments.sage_rt.on_the_spot import toyland_model
from experiments.sage_rt.pipeline import Run
from experiments.sage_rt.prompts import FORMATS, STYLES
from experiments.sage_rt.settings import settings_of
from experiments.sage_rt.store import Store
from experiments.sage_rt.taxonomy import load_taxonomy

_MAY_CHANGE = ("target", "judge", "panel", "aligned", "eval", "keep_days", "generator.concurrency")


def define_flags(config: str | None = None) -> None:
    """The flags that every program of the experiment has."""
    config_flags.DEFINE_config_file("config", config, "configuration file; by default the folder's own")
    flags.DEFINE_string("workdir", "", "the run's folder: private, outside git")
    flags.DEFINE_bool("accept_responsible_use", False, "for taxonomies other than Toyland")
    flags.DEFINE_list("allow_host", [], "hosts, other than this machine, that may be asked")
    flags.DEFINE_bool("retry_errors", False, "ask again what ended in an error")


@contextmanager
def open_run(roles: Sequence[str]) -> Iterator[Run]:
    """The run that the flags name. Raises ValueError before anything is written or sent."""
    values = flags.FLAGS.flag_values_dict()
    require(bool(values["workdir"]), "--workdir", "", "a path")
    config = values["config"] or read_config(Path(values["workdir"]))
    config = config.copy_and_resolve_references()
    check(config)
    taxonomy = load_taxonomy(config.taxonomy)
    guard.check_use(taxonomy, values["accept_responsible_use"], config.responsible_use)
    place = Path(values["workdir"]).absolute()
    roles = [*roles, *(f"panel.{name}" for name in config.panel if "judge" in roles)]
    backends = {
        role: open_backend(settings_of(config, role), role, values["allow_host"], place) for role in roles
    }
    folder = guard.private_folder(values["workdir"])
    if any(settings_of(config, role).kind == "flax" for role in roles):
        main.start_jax()
    _own(config, folder)
    store = Store(folder)
    try:
        yield Run(config, taxonomy, store, backends)
    finally:
        store.close()


def read_config(folder: Path) -> ConfigDict:
    """The configuration that the folder was begun with."""
    return workdir.read_config(folder)


def check(config: ConfigDict) -> None:
    """Raise ValueError naming the first field that is out of range."""
    require(config.experiment == "sage_rt", "config.experiment", config.experiment, "sage_rt")
    sizes = config.generate
    for field in ("topics", "rounds", "patience", "number", "queries", "characters"):
        require(sizes[field] >= 1, f"config.generate.{field}", sizes[field], "an integer >= 1")
    require(sizes.controls >= 0, "config.generate.controls", sizes.controls, "an integer >= 0")
    near = sizes.near_duplicate
    require(0 < near <= 1, "config.generate.near_duplicate", near, "a number in (0, 1]")
    for field, known in (("formats", FORMATS), ("styles", STYLES)):
        require(len(sizes[field]) > 0, f"config.generate.{field}", (), f"some of {tuple(known)}")
        for one in sizes[field]:
            require_one_of(f"config.generate.{field}", one, known)
    for role in ("judge", *(f"panel.{name}" for name in config.panel)):
        _check_judge(settings_of(config, role), f"config.{role}")
    name = config.target.name
    fits = bool(name) and all(char.isalnum() or char in "-_" for char in name)
    require(fits, "config.target.name", name, "letters, digits, - and _")


def _check_judge(settings: ConfigDict, where: str) -> None:
    require_one_of(f"{where}.by", settings.by, ("text", "log_probability"))
    scored = settings.by == "log_probability"
    require(not scored or settings.kind == "flax", f"{where}.by", settings.by, "text, unless kind is flax")


def open_backend(settings: ConfigDict, role: str, hosts: Sequence[str], folder: Path) -> Backend:
    """The model that a role is played by; one that is trained on the spot lies in the folder.

    Raises ValueError naming the field."""
    many = settings.concurrency
    require(1 <= many <= 4096, f"config.{role}.concurrency", many, "an integer in [1, 4096]")
    if settings.kind == "http":
        key, url = settings.key_env, settings.url
        return HttpBackend(url, settings.model, key_env=key, concurrency=many, allow_hosts=tuple(hosts))
    if settings.kind == "flax":
        return FlaxBackend(_loader(settings.model, role, folder), many)
    if settings.kind == "python":
        return CallbackBackend(_function(settings.function, role), settings.function, many)
    if settings.kind == "rules":
        return ScriptedBackend(lambda request: "", name="rules", concurrency=many)
    require_one_of(f"config.{role}.kind", settings.kind, ("toyland", "flax", "http", "python", "rules"))
    play = toymodels.target if role == "target" else toymodels.generator
    return ScriptedBackend(play, name=f"toyland-{role}", concurrency=many)


def write_manifest(run: Run) -> dict[str, Any]:
    """``manifest.json``: what the folder holds, of which categories, whose it is and until when."""
    made = datetime.datetime.now(datetime.UTC).date()
    file = run.store.folder / "manifest.json"
    if file.exists():
        made = datetime.date.fromisoformat(json.loads(file.read_text())["begun"])
    counts = counts_of(run)
    leaves = {node.id for node in run.taxonomy.targets}
    content = {
        "taxonomy": run.taxonomy.name,
        "sensitivity": "synthetic, benign" if guard.is_toyland(run.taxonomy) else "restricted",
        "begun": made.isoformat(),
        "remove_by": (made + datetime.timedelta(days=run.config.keep_days)).isoformat(),
        "responsible_use": run.config.responsible_use.to_dict(),
        "counts": {stage: sum(some.values()) for stage, some in counts.items()},
        "queries_by_leaf": counts["query"],
        "leaves_without_queries": sorted(leaves - set(counts["query"])),
        "costs": run.store.costs(),
    }
    write_json(file, content)
    return content


def counts_of(run: Run) -> dict[str, dict[str, int]]:
    """Of each stage and leaf how many items came out of it; of queries those of attacks that stay."""
    found: dict[str, dict[str, int]] = {}
    for stage in ("raw", "extract", "control", "query", *(f"respond.{name}" for name in targets(run))):
        counts = found[stage] = {}
        for row in run.store.rows(stage):
            stays = row.result["status"] in ("ok", "length") and row.inputs.get("kind", "") != "control"
            number = len(row.result["items"]) if "items" in row.result else int(stays)
            if number:
                counts[row.inputs["leaf"]] = counts.get(row.inputs["leaf"], 0) + number
    return found


def targets(run: Run) -> list[str]:
    """Names of the models that were judged."""
    folder = run.store.folder / "data"
    return sorted(path.name.removeprefix("judge.") for path in folder.glob("judge.*"))


def _own(config: ConfigDict, folder: Path) -> None:
    """Keep the configuration, or compare it with the folder's."""
    file = folder / "config.json"
    if not file.exists():
        write_json(file, config.to_dict())
        return
    old, new = workdir.flatten(json.loads(file.read_text())), workdir.flatten(json.loads(config.to_json()))
    for field in sorted({*old, *new}):
        if not any(field == name or field.startswith(f"{name}.") for name in _MAY_CHANGE):
            allowed = f"{old.get(field)!r}, as in {folder}, which holds another run"
            require(old.get(field) == new.get(field), f"config.{field}", new.get(field), allowed)


def _loader(model: str, role: str, folder: Path) -> Callable[[], ChatModel]:
    if model == "toyland":
        return lambda: toyland_model(folder)
    require(bool(model), f"config.{role}.model", model, 'a folder with a checkpoint, or "toyland"')
    DecoderFiles(model)  # what is wrong with it is to be said now
    return lambda: ChatModel.read(model)


def _function(name: str, role: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"config.{role}.function: got {name!r} ({error}), allowed: module:function"
        ) from error
    require(callable(found), f"config.{role}.function", name, "a function of a text")
    return found
