"""From the plain values of a configuration to the library's objects; every experiment uses these."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Key
from ml_collections import ConfigDict

import diffax
from diffax import checks, data
from diffax.guidance import classifier_free, compose, dynamic_threshold, static_threshold
from diffax.losses import weighting
from diffax.processes import GaussianProcess, grids, tables, times
from diffax.samplers import (
    Sampler,
    annealed_langevin,
    annealed_step_size,
    chain,
    ddim,
    ddpm,
    dpmpp_2m,
    euler_maruyama,
    heun,
    langevin,
    probability_flow,
)
from diffax.training import OptimizerConfig
from diffax.types import ApplyFn, Cond, DenoiseTransform, Params

PROCESSES = {name: getattr(diffax, name) for name in ("VP", "SubVP", "VE", "EDM", "RectifiedFlow", "Cosine")}
MODELS = {name: getattr(diffax.models, name) for name in ("UNet", "UNet3D", "NCSNpp", "DiT", "MLP")}
DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}


def open_source(config: Mapping[str, Any], split: str) -> data.Source:
    """``config.data``: a name or a path, and those of its options that are not empty or zero."""
    names = (
        "data_dir",
        "holdout",
        "size",
        "channels",
        "axis",
        "field_mm",
        "min_content",
        "preload",
        "volumes",
    )
    options = {name: config[name] for name in names if config.get(name)}
    if config["value_range"]:
        bounds = tuple(float(value) for value in config["value_range"])
        checks.require(len(bounds) == 2, "config.data.value_range", bounds, "(low, high)")
        options["value_range"] = bounds
    return data.open_source(config["source"], split, **options)


def shard_rows(config: ConfigDict, count: int) -> int:
    """This process's rows of a training batch; ValueError where the processes do not divide it."""
    size = config.train.batch_size
    checks.require(size % count == 0, "config.train.batch_size", size, f"a multiple of {count} processes")
    return size // count


def make_pipeline(config: ConfigDict, source: data.Source, index: int, count: int) -> data.Pipeline:
    """This process's rows of shuffled batches, the same for the same seed."""
    return data.pipeline(
        source,
        shard_rows(config, count),
        config.seed,
        shard_index=index,
        shard_count=count,
        augment=data.horizontal_flip() if config.data.flip else None,
        threads=config.data.threads,
        workers=config.data.workers,
    )


def make_process(config: Mapping[str, Any]) -> GaussianProcess:
    """``{"name": "VP", ...fields}``, or ``{"name": "FromTable", "table": "linear", ...its arguments}``."""
    options = dict(config)
    name = options.pop("name")
    checks.require_one_of("process.name", name, (*PROCESSES, "FromTable"))
    if name != "FromTable":
        return _call(PROCESSES[name], "process", options)
    table = options.pop("table")
    checks.require_one_of("process.table", table, ("linear", "scaled_linear", "sigmoid", "cosine"))
    return diffax.FromTable(_call(getattr(tables, table), "process", options))


def make_model(config: Mapping[str, Any], num_classes: int) -> nn.Module:
    """``{"name": "UNet", ...fields}``; ``dtype`` by name."""
    checks.require_one_of("model.name", config["name"], MODELS)
    return make_module(MODELS[config["name"]], "model", config, num_classes=num_classes)


def make_module(
    module: Callable[..., nn.Module], where: str, config: Mapping[str, Any], **more: Any
) -> nn.Module:
    """A network of the given class from the fields of ``config``, its "name" aside; ``dtype`` by name."""
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(config).items() if k != "name"}
    dtype = options.pop("dtype", "float32")
    checks.require_one_of(f"{where}.dtype", dtype, DTYPES)
    return _call(module, where, {**options, **more, "dtype": DTYPES[dtype]})


def make_apply(model: nn.Module, key: Key[Array, ""] | None = None) -> ApplyFn:
    """The network as ``apply_fn(params, x, time, cond)``; with a dropout key, in training mode."""

    def apply_fn(params: Params, x: Array, time: Array, cond: Cond | None) -> Array:
        if key is None:
            return model.apply({"params": params}, x, time, cond)
        return model.apply({"params": params}, x, time, cond, train=True, rngs={"dropout": key})

    return apply_fn


def make_times(config: Mapping[str, Any]) -> times.TimeSampler:
    """``{"name": "stratified", ...arguments}``."""
    options = dict(config)
    name = options.pop("name")
    known = (
        "uniform",
        "stratified",
        "antithetic",
        "log_normal",
        "log_logistic",
        "logit_normal",
        "log_snr_uniform",
    )
    checks.require_one_of("loss.times.name", name, known)
    return _call(getattr(times, name), "loss.times", options)


def make_weighting(config: Mapping[str, Any]) -> weighting.Weighting:
    """``{"name": "simple", ...arguments}``."""
    options = dict(config)
    name = options.pop("name")
    checks.require_one_of(
        "loss.weighting.name", name, ("simple", "likelihood", "edm", "min_snr", "sigmoid", "p2")
    )
    return _call(getattr(weighting, name), "loss.weighting", options)


def make_optimizer_config(config: Mapping[str, Any]) -> OptimizerConfig:
    """The fields of :class:`diffax.training.OptimizerConfig`."""
    return _call(OptimizerConfig, "train.optimizer", dict(config))


def make_guidance(scale: float, threshold: str) -> DenoiseTransform:
    """Classifier-free guidance (none at scale 1), then thresholding ("none", "static" or "dynamic")."""
    thresholds: dict[str, Callable[[], DenoiseTransform]] = {
        "none": compose,
        "static": static_threshold,
        "dynamic": dynamic_threshold,
    }
    checks.require_one_of("sample.threshold", threshold, thresholds)
    guide = () if scale == 1.0 else (classifier_free(scale),)
    return compose(*guide, thresholds[threshold]())


def make_sampler(name: str, process: GaussianProcess, steps: int) -> Sampler:
    """A sampler by the name that configurations and tables use."""
    known: dict[str, Callable[[], Sampler]] = {
        "ddpm": ddpm,
        "ddpm_large": lambda: ddpm("large"),
        "ddim": ddim,
        "heun": heun,
        "heun_churn": lambda: heun(churn=0.5 * steps, churn_min=0.05, churn_max=50.0, noise_scale=1.003),
        "euler_maruyama": euler_maruyama,
        "dpmpp_2m": dpmpp_2m,
        "dpmpp_2m_sde": lambda: dpmpp_2m(eta=1.0),
        "predictor_corrector": lambda: chain(langevin(snr=0.16), ddpm()),
        "annealed_langevin": lambda: annealed_langevin(annealed_step_size(process, steps, 5), n_steps=5),
        "probability_flow": lambda: probability_flow(1e-3, 1e-3),
    }
    checks.require_one_of("sample.sampler", name, known)
    return known[name]()


def make_grid(name: str, process: GaussianProcess, steps: int) -> Array:
    """A grid by name that ends at zero noise."""
    checks.require_one_of("sample.grid", name, ("uniform", "karras", "log_snr", "trailing"))
    if name == "trailing":
        return grids.trailing(process, steps)
    return getattr(grids, name)(process, steps, final="zero")


def _call(make: Callable[..., Any], where: str, options: Mapping[str, Any]) -> Any:
    """Call with keywords; an unknown one is the configuration's fault, and named as such."""
    plain = {k: v.to_dict() if isinstance(v, ConfigDict) else v for k, v in options.items()}
    try:
        return make(**plain)
    except TypeError as error:
        raise ValueError(f"config.{where}: {error}") from error
