"""Checkpoints of a whole run through orbax: state, position in the data, and what they belong to."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
from flax import serialization

from diffax import checks
from diffax.io.digest import digest
from diffax.training import distributed
from diffax.training.state import TrainState

_LOG = logging.getLogger("diffax")
_FORMAT = 2  # 1 had a digest that gathered every array


class CheckpointError(RuntimeError):
    """There are checkpoints, and none can be used; nothing was changed."""


class CheckpointWriteError(CheckpointError):
    """A checkpoint could not be written; the older ones are whole."""


class CheckpointStore:
    """The checkpoints of one run in ``directory``.

    Kept are the newest ``keep``, every one whose step is a multiple of ``keep_every``, and the best one by
    ``best``: the name of a metric given to :meth:`save`, least is best, or ``"NAME:max"``.

    Each is copied off the devices, then written by a thread while training goes on, under a temporary name
    that becomes its own when it is whole. It carries a digest of its arrays. A damaged newest one is passed
    over for the newest whole one, with a warning, and moved beside the directory (``NAME-damaged``) when the
    run saves again. If none is whole, :class:`CheckpointError` is raised rather than training from the start.
    On several hosts all call the same methods; the folder is one that all of them see.
    """

    def __init__(self, directory: str | Path, keep: int = 3, keep_every: int = 0, best: str = "") -> None:
        import orbax.checkpoint as ocp

        checks.require(keep >= 1, "keep", keep, "an integer >= 1")
        checks.require(keep_every >= 0, "keep_every", keep_every, "a number of steps, or 0")
        self._ocp = ocp
        self._directory = Path(directory).absolute()
        self._damaged: set[int] = set()
        score = _score(best) if best else None
        options = ocp.CheckpointManagerOptions(
            create=True,
            cleanup_tmp_directories=True,
            best_fn=score,
            preservation_policy=_policy(keep, keep_every, score),
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def steps(self) -> list[int]:
        """The steps at which there is a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The step of the best checkpoint by the metric that this store goes by; None where there is none."""
        return self._manager.best_step()

    def save(self, state: TrainState, data: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Save the state and the position in the data, under the state's step.

        Returns when the devices' memory may be reused; the writing goes on. Raises
        :class:`CheckpointWriteError` where this or the last one cannot be written (a full disk); older ones
        stay whole.
        """
        self._set_damaged_aside()
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        arrays = _to_arrays(state)
        meta = {"format": _FORMAT, "step": step, "digest": digest(arrays)}
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(arrays),
            data=self._ocp.args.JsonSave({"position": data}),
            meta=self._ocp.args.JsonSave(meta),
        )
        with self._explained():
            self._manager.save(step, args=args, metrics=dict(metrics) if metrics else None)

    def restore(self, template: TrainState, step: int | None = None) -> tuple[TrainState, Any] | None:
        """A checkpoint as ``(state, data)``, on the template's devices: the newest whole one, or ``step``.

        None where there is none. The template's values are not read: a state of the same structure serves,
        shapes and shardings, on another mesh or number of hosts than the one that saved.
        """
        steps = self.steps()[::-1] if step is None else [step]
        for candidate in steps:
            found, error = self._attempt(candidate, template)
            if error is None:
                return found
            self._damaged.add(candidate)
            _LOG.warning("checkpoint %d in %s is not whole (%s)", candidate, self._directory, error)
        if steps:
            raise CheckpointError(
                f"workdir: got {self._directory} with checkpoints {steps[::-1]}, none of which can be read; "
                "allowed: whole checkpoints of this configuration, or an empty directory"
            )
        return None

    def wait(self) -> None:
        """Return when everything is on disk. Raises :class:`CheckpointWriteError` where it cannot be."""
        with self._explained():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and let go of the directory."""
        with self._explained():
            self._manager.close()

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of storage, of which there are many kinds, as one that says what is still there."""
        try:
            yield
        except Exception as error:
            whole = [step for step in self._whole_steps() if step not in self._damaged]
            raise CheckpointWriteError(
                f"checkpoint: could not be written to {self._directory} ({_first_line(error)}); checkpoints "
                f"{whole} are whole, and the same command goes on from the newest when there is room"
            ) from error

    def _whole_steps(self) -> list[int]:
        """Steps whose folder has its final name: orbax counts one as saved before it is written."""
        return sorted(int(path.name) for path in self._directory.iterdir() if path.name.isdigit())

    def _set_damaged_aside(self) -> None:
        """Make room for the steps that will be saved again; nothing is deleted."""
        if not self._damaged:
            return
        if jax.process_index() == 0:
            shelf = self._directory.with_name(f"{self._directory.name}-damaged")
            for step in self._damaged:
                shelf.mkdir(exist_ok=True)
                taken = sum(path.name.split(".")[0] == str(step) for path in shelf.iterdir())
                (self._directory / str(step)).rename(shelf / (f"{step}.{taken}" if taken else str(step)))
        distributed.barrier("damaged checkpoints are aside")
        self._damaged.clear()
        self._manager.reload()

    def _attempt(self, step: int, template: TrainState) -> tuple[tuple[TrainState, Any] | None, str | None]:
        """Restore one checkpoint; what is wrong with it otherwise. All hosts agree."""
        found, problem = None, None
        try:
            found = self._restore_one(step, template)
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            problem = _first_line(error)
        if not distributed.all_agree(problem is None):
            problem = problem or "another host cannot read it"
        return found, problem

    def _restore_one(self, step: int, template: TrainState) -> tuple[TrainState, Any]:
        abstract = jax.tree.map(_abstract, _to_arrays(template))
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardRestore(abstract),
            data=self._ocp.args.JsonRestore(),
            meta=self._ocp.args.JsonRestore(),
        )
        found = self._manager.restore(step, args=args)
        checks.require(found["meta"]["format"] == _FORMAT, "format", found["meta"]["format"], str(_FORMAT))
        now, then = digest(found["state"]), found["meta"]["digest"]
        checks.require(now == then, "digest", now[:12], f"{then[:12]}, as saved")
        return _from_arrays(found["state"], template), found["data"]["position"]


def _score(best: str) -> Callable[[Mapping[str, float]], float]:
    """A function of the metrics that is larger for a better checkpoint; one without the metric is worst."""
    name, _, mode = best.partition(":")
    checks.require_one_of("best", mode or "min", ("min", "max"))
    sign = 1.0 if mode == "max" else -1.0

    def score(metrics: Mapping[str, float]) -> float:
        value = metrics.get(name)
        return sign * value if value is not None and math.isfinite(value) else -math.inf

    return score


def _policy(keep: int, keep_every: int, score: Callable[[Any], float] | None) -> Any:
    from orbax.checkpoint import checkpoint_managers as policies

    chosen: list[Any] = [policies.LatestN(keep)]
    if keep_every:
        chosen.append(policies.EveryNSteps(keep_every))
    if score is not None:
        best = policies.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
        chosen.append(best)
    return policies.AnyPreservationPolicy(chosen)


def _is_typed_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_arrays(state: TrainState) -> dict[str, Any]:
    """Nested dictionaries of plain arrays: what storage knows. Typed keys become their raw numbers."""
    return jax.tree.map(_raw, serialization.to_state_dict(state))


def _raw(leaf: Any) -> Any:
    if not _is_typed_key(leaf):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        shape = jax.eval_shape(jax.random.key_data, leaf)
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=leaf.sharding)
    return jax.random.key_data(leaf)


def _from_arrays(tree: dict[str, Any], template: TrainState) -> TrainState:
    """The inverse of :func:`_to_arrays`, with the template's structure and kinds of keys."""

    def wrap(leaf: Any, like: Any) -> Any:
        if not _is_typed_key(like):
            return leaf
        impl = jax.random.key_impl(jnp.empty((), like.dtype))  # like may be a shape without values
        return jax.random.wrap_key_data(leaf, impl=impl)

    typed = jax.tree.map(wrap, tree, serialization.to_state_dict(template))
    return serialization.from_state_dict(template, typed)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _first_line(error: Exception) -> str:
    """The first line of a message; of a long one its ends, for the reason often comes last."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 240 else f"{line[:100]} ... {line[-130:]}"
