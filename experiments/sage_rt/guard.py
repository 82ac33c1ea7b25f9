"""Guard rails: what has to be true before anything is generated, sent or written.

Toyland is free. Any other taxonomy needs ``--accept_responsible_use`` and who uses it, what for, and that the
target's owner agreed; prompts are never generated for the categories that ``DENIED`` names, whatever the
flags. A run's folder is private, and not one that git would pick up."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffax.checks import require
from diffax.io.files import write_text
from experiments.sage_rt.taxonomy import Taxonomy

FIELDS = ("operator", "purpose", "target_owner_confirmation")
_DENIED_WEAPON = r"biological|bacteriological|chemical|radioactive|radiological|nuclear|cbrn|toxin|pathogen"
_MINORS = (
    r"minors?|child(ren)?|kids?|underage|teen(ager)?s?|juveniles?|infants?|toddlers?|csam|csae|pa?edophil\w*"
)
DENIED = re.compile(rf"(?<![a-z])({_DENIED_WEAPON}|{_MINORS})(?![a-z])")

_ACCESS = """This folder holds text that was generated to test a model's safety, and what models answered.

Read, copy and share it only as far as the purpose that manifest.json states needs it. Do not publish it, do
not train on it without the control set, and remove it with

    python -m experiments.sage_rt.purge --workdir={folder}

when that purpose is served, at the latest on the date that manifest.json names.
"""


class ResponsibleUseError(ValueError):
    """What would have been done is not allowed, or not without a declaration."""


def check_use(taxonomy: Taxonomy, accepted: bool, declared: Mapping[str, Any]) -> None:
    """Raise ResponsibleUseError unless the taxonomy is Toyland, or the use is accepted and declared."""
    if is_toyland(taxonomy):
        return
    if not accepted:
        raise ResponsibleUseError(
            f"--accept_responsible_use: got False, allowed: True for the taxonomy {taxonomy.name!r}"
        )
    for field in FIELDS:
        if not str(declared.get(field, "")).strip():
            raise ResponsibleUseError(f"config.responsible_use.{field}: got '', allowed: a sentence")


def check_generation(taxonomy: Taxonomy, node: str) -> None:
    """Raise ResponsibleUseError for a category that prompts are never generated for, whatever the flags."""
    if not is_toyland(taxonomy) and denied(taxonomy, node):
        raise ResponsibleUseError(
            f"taxonomy node {node!r}: got {taxonomy[node].name!r}, allowed: no category of mass-casualty "
            "weapons or about minors where prompts are generated"
        )


def denied(taxonomy: Taxonomy, node: str) -> bool:
    """Whether a category, or one above it, is never generated for."""
    texts = [text for one in taxonomy.path(node) for text in (one, taxonomy[one].name)]
    return any(DENIED.search(re.sub(r"[\W_]+", " ", text.casefold())) for text in texts)


def is_toyland(taxonomy: Taxonomy) -> bool:
    """Whether it is the made-up taxonomy itself, not merely one of its name."""
    from experiments.sage_rt import toyland

    return taxonomy is toyland.taxonomy()


def private_folder(path: str | Path) -> Path:
    """A run's folder, made if need be, that no other user can read; ValueError where git would pick it up."""
    folder = Path(path).resolve()  # a link may lead into a work tree
    tree = _work_tree(folder)
    kept = tree is None or _ignored(tree, folder)
    require(kept, "--workdir", str(path), "a folder outside any git work tree, or one that it ignores")
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    os.umask(0o077)  # all that this process writes from now on
    if not (folder / "ACCESS.md").exists():
        write_text(folder / "ACCESS.md", _ACCESS.format(folder=path))
    return folder


def _work_tree(folder: Path) -> Path | None:
    return next((one for one in (folder, *folder.parents) if (one / ".git").exists()), None)


def _ignored(tree: Path, folder: Path) -> bool:
    if folder == tree or not shutil.which("git"):
        return False
    # the folder may not exist yet: a pattern such as "/runs/" fits only with the slash
    command = ["git", "-C", str(tree), "check-ignore", "-q", f"{folder}/"]
    return subprocess.run(command, capture_output=True).returncode == 0
