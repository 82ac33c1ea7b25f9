"""Checkpoints of a whole run through orbax: state, position in the data, and what they belong to."""

import hashlib
import logging
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from flax import serialization

from diffax import checks
from diffax.training.state import TrainState

_LOG = logging.getLogger("diffax")
_FORMAT = 1


class CheckpointError(RuntimeError):
    """Checkpoints are there, but none of them can be used; nothing was changed."""


class CheckpointStore:
    """The checkpoints of one run in ``directory``, newest ``keep`` kept.

    Each is written under a temporary name and renamed when whole, and carries a digest of its arrays. A
    damaged newest one is passed over for the newest whole one, with a warning, and moved beside the directory
    (``NAME-damaged``) when the run saves again. If none is whole, :class:`CheckpointError` is raised rather
    than training from the start.
    """

    def __init__(self, directory: str | Path, keep: int = 3) -> None:
        import orbax.checkpoint as ocp

        checks.require(keep >= 1, "keep", keep, "an integer >= 1")
        self._ocp = ocp
        self._directory = Path(directory).absolute()
        self._damaged: set[int] = set()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def steps(self) -> list[int]:
        """The steps at which there is a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, data: Any) -> None:
        """Save the state and the position in the data, under the state's step."""
        self._set_damaged_aside()
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        arrays = _to_arrays(state)
        meta = {"format": _FORMAT, "step": step, "digest": _digest(arrays)}
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(arrays),
            data=self._ocp.args.JsonSave({"position": data}),
            meta=self._ocp.args.JsonSave(meta),
        )
        self._manager.save(step, args=args)

    def restore(self, template: TrainState) -> tuple[TrainState, Any] | None:
        """The newest whole checkpoint as ``(state, data)``, on the template's devices; None if there is none.

        The template's values are not read: a state of the same structure serves, shapes and shardings.
        """
        steps = self.steps()[::-1]
        for step in steps:
            try:
                return self._restore_one(step, template)
            except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
                self._damaged.add(step)
                _LOG.warning(
                    "checkpoint %d in %s is not whole (%s)", step, self._directory, _first_line(error)
                )
        if steps:
            raise CheckpointError(
                f"workdir: got {self._directory} with checkpoints {steps[::-1]}, none of which can be read; "
                "allowed: whole checkpoints of this configuration, or an empty directory"
            )
        return None

    def wait(self) -> None:
        """Return when everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and let go of the directory."""
        self._manager.close()

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _set_damaged_aside(self) -> None:
        """Make room for the steps that will be saved again; nothing is deleted."""
        shelf = self._directory.with_name(f"{self._directory.name}-damaged")
        for step in self._damaged:
            shelf.mkdir(exist_ok=True)
            taken = sum(path.name.split(".")[0] == str(step) for path in shelf.iterdir())
            (self._directory / str(step)).rename(shelf / (f"{step}.{taken}" if taken else str(step)))
        if self._damaged:
            self._damaged.clear()
            self._manager.reload()

    def _restore_one(self, step: int, template: TrainState) -> tuple[TrainState, Any]:
        abstract = jax.tree.map(_abstract, _to_arrays(template))
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardRestore(abstract),
            data=self._ocp.args.JsonRestore(),
            meta=self._ocp.args.JsonRestore(),
        )
        found = self._manager.restore(step, args=args)
        digest = _digest(found["state"])
        if digest != found["meta"]["digest"]:
            raise ValueError(f"digest: got {digest[:12]}, allowed: {found['meta']['digest'][:12]}, as saved")
        return _from_arrays(found["state"], template), found["data"]["position"]


def _is_typed_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_arrays(state: TrainState) -> dict[str, Any]:
    """Nested dictionaries of plain arrays: what storage knows. Typed keys become their raw numbers."""
    tree = serialization.to_state_dict(state)
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_typed_key(leaf) else leaf, tree)


def _from_arrays(tree: dict[str, Any], template: TrainState) -> TrainState:
    """The inverse of :func:`_to_arrays`, with the template's structure and kinds of keys."""

    def wrap(leaf: Any, like: Any) -> Any:
        return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like)) if _is_typed_key(like) else leaf

    typed = jax.tree.map(wrap, tree, serialization.to_state_dict(template))
    return serialization.from_state_dict(template, typed)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _digest(tree: Any) -> str:
    """SHA-256 over every array in order: storage does not notice a flipped bit."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        value = np.asarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)}{value.dtype}{value.shape}".encode())
        total.update(np.ascontiguousarray(value).tobytes())
    return total.hexdigest()


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
