"""What a network of MONAI predicts, and under which noise: its schedulers as processes.

schedule = monai_process({"_target_": "DDPMScheduler", "schedule": "scaled_linear_beta"})
denoise = schedule.denoiser(apply, params)
grid = grids.from_indices(schedule.process, range(999, -1, -20))
sample(keys, denoise, schedule.process, ddpm(), grid, shape=...)
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from diffax.checks import require, require_one_of
from diffax.denoisers import TimeInput, bind
from diffax.guidance import static_threshold
from diffax.processes import FromTable, GaussianProcess, RectifiedFlow, tables
from diffax.types import ApplyFn, Cond, DenoiseFn, Params


class PredictionSchedule(NamedTuple):
    """A process, and how to :func:`diffax.bind` a network that was trained under it.

    ``output`` and ``time_input`` are those of ``bind``; the network predicts ``sign`` times the output.
    ``bounds``: of the estimate of x0, or None. ``sampler``: by the name that configurations use.
    """

    process: GaussianProcess
    output: str
    time_input: TimeInput
    sampler: str
    bounds: tuple[float, float] | None = None
    sign: float = 1.0

    def denoiser(self, apply_fn: ApplyFn, params: Params) -> DenoiseFn:
        """The bound network, its estimate kept within the bounds."""

        def signed(params: Params, x: Array, time: Array, cond: Cond | None) -> Array:
            return self.sign * apply_fn(params, x, time, cond)

        process, output, time_input = self.process, self.output, self.time_input
        denoise = bind(signed, params, process=process, output=output, time_input=time_input)
        return static_threshold(*self.bounds)(denoise) if self.bounds else denoise


_OUTPUTS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_SAMPLERS = {"fixed_small": "ddpm", "fixed_large": "ddpm_large"}
_BETAS: dict[str, tuple[Callable[..., np.ndarray], dict[str, str]]] = {
    # the table, and its arguments by their names
    "linear_beta": (tables.linear, {"beta_start": "beta_start", "beta_end": "beta_end"}),
    "scaled_linear_beta": (tables.scaled_linear, {"beta_start": "beta_start", "beta_end": "beta_end"}),
    "sigmoid_beta": (
        tables.sigmoid,
        {"beta_start": "beta_start", "beta_end": "beta_end", "sig_range": "reach"},
    ),
    "cosine": (tables.cosine, {"s": "offset"}),
}
_BETA_RANGE = {"beta_start": 1e-4, "beta_end": 2e-2}
_COMMON = {
    "num_train_timesteps",
    "schedule",
    "prediction_type",
    "clip_sample",
    "clip_sample_min",
    "clip_sample_max",
}
# Fields of each scheduler that are translated, and those that choose steps: a grid does that here.
_FIELDS = {
    "DDPMScheduler": _COMMON | {"variance_type"},
    "DDIMScheduler": _COMMON | {"set_alpha_to_one", "steps_offset"},
    "RFlowScheduler": {
        "num_train_timesteps",
        "use_discrete_timesteps",
        "sample_method",
        "loc",
        "scale",
        "use_timestep_transform",
        "transform_scale",
        "steps_offset",
        "base_img_size_numel",
        "spatial_dim",
    },
}


def monai_process(
    config: Mapping[str, Any], scheduler: str = "DDPMScheduler", *, before_1_5: bool = False
) -> PredictionSchedule:
    """The process of a MONAI scheduler, what networks trained with it predict, and how it samples.

    Args:
      config: the scheduler's keyword arguments; absent ones have MONAI's defaults. ``_target_`` may name it.
      scheduler: "DDPMScheduler", "DDIMScheduler" or "RFlowScheduler", where ``_target_`` does not.
      before_1_5: for a network trained with the cosine schedule of MONAI 1.4 or older, whose steps stand one
        entry later: its step 0 adds no noise.

    What chooses steps (``steps_offset``, ``set_alpha_to_one``, timestep transforms) is left to the grid.
    Rectified flows predict ``x0 - eps``, minus the velocity. Where an estimate is clipped, DDIM goes on with
    the noise that the clipped one implies, MONAI's with the network's own.

    Raises ValueError for other schedulers and arguments, and for learned variances.
    """
    options = dict(config)
    name = str(options.pop("_target_", scheduler)).rpartition(".")[2]
    require_one_of("scheduler", name, _FIELDS)
    if name == "RFlowScheduler":
        return _flow(options)
    kind = options.get("schedule", "linear_beta")
    require_one_of("schedule", kind, _BETAS)
    _known(options, _FIELDS[name] | _BETAS[kind][1].keys(), name)
    prediction = options.get("prediction_type", "epsilon")
    require_one_of("prediction_type", prediction, _OUTPUTS)
    variance = options.get("variance_type", "fixed_small")
    require_one_of("variance_type", variance, _SAMPLERS)
    limits = {"clip_sample_min": -1.0, "clip_sample_max": 1.0, **options}
    bounds = _number(limits, "clip_sample_min"), _number(limits, "clip_sample_max")
    table = _table(options, kind)
    shifted = before_1_5 and kind == "cosine"
    return PredictionSchedule(
        FromTable(table[:-1] if shifted else table),
        _OUTPUTS[prediction],
        _step_from_clean if shifted else "step",
        "ddim" if name == "DDIMScheduler" else _SAMPLERS[variance],
        bounds if options.get("clip_sample", True) else None,
    )


def _table(options: Mapping[str, Any], kind: str) -> np.ndarray:
    make, names = _BETAS[kind]
    given = {ours: _number(options, theirs) for theirs, ours in names.items() if theirs in options}
    defaults = {} if kind == "cosine" else _BETA_RANGE
    return make(_steps(options), **{**defaults, **given})


def _flow(options: Mapping[str, Any]) -> PredictionSchedule:
    """Their step s is at time ``s / steps`` of straight paths."""
    _known(options, _FIELDS["RFlowScheduler"], "RFlowScheduler")
    steps = _steps(options)
    process = RectifiedFlow(t_max=1.0)  # type: ignore[call-arg]  # mypy does not see its fields
    return PredictionSchedule(process, "velocity", lambda process, t: t * steps, "ddim", sign=-1.0)


def _steps(options: Mapping[str, Any]) -> int:
    steps = options.get("num_train_timesteps", 1000)
    require(isinstance(steps, int) and steps >= 2, "num_train_timesteps", steps, "an integer of 2 or more")
    return steps


def _number(options: Mapping[str, Any], field: str) -> float:
    value = options[field]
    require(isinstance(value, (int, float)), field, value, "a number")
    return float(value)


def _step_from_clean(process: GaussianProcess, t: Array) -> Array:
    """The step of a table that begins with clean data, an entry that a ``FromTable`` has not."""
    return t * getattr(process, "table_size")  # noqa: B009


def _known(options: Mapping[str, Any], fields: set[str], name: str) -> None:
    unknown = sorted(options.keys() - fields)
    require(not unknown, "config", unknown, f"arguments of {name}: " + ", ".join(sorted(fields)))
