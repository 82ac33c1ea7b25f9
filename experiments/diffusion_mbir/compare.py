"""Methods side by side on a volume of one's own: what a prior is worth there, before one trusts it.

    python -m experiments.diffusion_mbir.compare --volume=ct.nii.gz --prior=WORKDIR --out=runs/compare \
        --views=8,4,2 --methods=dds

The volume is measured (noise-free unless ``--noise``), reconstructed by FBP, by ADMM-TV with its weight
tuned on the truth, and by the methods named; ``result.json``, a table and pictures go to ``--out``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from diffax import checks
from diffax.evaluation import write_result
from experiments import devices, main, sources
from experiments.diffusion_mbir import evaluation, method, priors
from experiments.diffusion_mbir.reconstruct import parse_settings
from experiments.diffusion_mbir.scan import as_images
from experiments.diffusion_mbir.settings import base
from experiments.progress import say


def program(argv: Sequence[str]) -> None:
    """Measure, reconstruct, compare."""
    values = {name: flag.value for name, flag in flags.FLAGS.__flags.items()}
    for name in ("volume", "prior", "out"):
        checks.require(bool(values[name]), f"--{name}", values[name], "a path")
    settings = parse_settings(values["settings"])
    methods = {name: settings if number == 0 else {} for number, name in enumerate(values["methods"])}
    for name, changed in methods.items():
        checks.require_one_of("--methods", name, method.DIFFUSION)
        method.settings_of(name, changed)
    main.start_jax()
    mesh = devices.open_mesh("-1x1x1", int(values["cpu_devices"]))
    prior = priors.load_prior(values["prior"])
    modality = prior.modality or "ct"
    volume = sources.open_volume(values["volume"], prior.size)
    learned = prior.value_range if not values["value_range"] else None
    value_range = learned or sources.choose_range(values["value_range"], volume, modality)
    fitted = sources.fit(volume, prior.size, value_range, values["volume"])
    truth = as_images(fitted, value_range)
    asked = scans(values["views"], modality)
    without_z = tuple(asked) if values["ablate_z"] else ()
    study = evaluation.Study(
        prior.denoise, prior.params, methods, base().reconstruct.tv_weights, without_z,
        int(values["chunk"]), int(values["seed"]), mesh,
    )  # fmt: skip
    found = [case for name, about in asked.items()
             for case in evaluation.cases(name, about, [truth], values["noise"])]  # fmt: skip
    across, _, up = fitted.spacing
    found = [case._replace(thickness=up / across) for case in found]
    out = Path(values["out"])
    out.mkdir(parents=True, exist_ok=True)
    result = evaluation.compare(study, found, out, values["volume"])
    write_result(out / "result.json", result["figures"], {"rows": result["rows"], **devices.environment()})
    say(f"wrote {out / 'result.json'}", sys.stdout)


def scans(views: Sequence[str], modality: str) -> dict[str, dict[str, object]]:
    """Sparse views of CT by their number, or accelerations of MRI."""
    made: dict[str, dict[str, object]] = {}
    for text in views:
        checks.require(
            text.isdigit() and int(text) >= 1, "--views", text, "whole numbers, with commas between"
        )
        number = int(text)
        made |= (
            {f"sparse{text}": {"task": "sparse_view", "views": number}}
            if modality == "ct"
            else {f"mri{text}": {"task": "mri", "acceleration": float(number)}}
        )
    return made


if __name__ == "__main__":
    flags.DEFINE_string("volume", "", "a NIfTI file, a folder of DICOM slices, or torso:N")
    flags.DEFINE_string("prior", "", "folder of a run that trained on slices")
    flags.DEFINE_string("out", "", "folder for the table and pictures")
    flags.DEFINE_list("views", ["8", "4", "2"], "of sparse-view CT (for a prior of MR: accelerations)")
    flags.DEFINE_list("methods", ["dds"], "diffusion methods")
    flags.DEFINE_string("settings", "", "name=value,... of the first method")
    flags.DEFINE_string("value_range", "", "low,high that map to 0 and 1 (default: the prior's)")
    flags.DEFINE_float("noise", 0.0, "of the measurements, as simulate takes it")
    flags.DEFINE_bool("ablate_z", True, "also the first method without its prior along z")
    flags.DEFINE_integer("chunk", 64, "slices that go through the network together")
    flags.DEFINE_integer("cpu_devices", 1, "on a CPU, cores that serve as devices")
    flags.DEFINE_integer("seed", 0, "of the noise")
    sys.exit(main.run(program))
