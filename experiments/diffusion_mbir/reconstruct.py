"""From measurements to a volume that others can open: NIfTI, or a DICOM series.

    python -m experiments.diffusion_mbir.reconstruct --measurements=scan.npz --method=dds --prior=WORKDIR \
        --out=recon.nii.gz [--reference=ct.nii.gz]
    python -m experiments.diffusion_mbir.reconstruct --measurements=scan.npz --method=fbp --out=recon.nii.gz
    python -m experiments.diffusion_mbir.reconstruct ... --out=DICOM_DIR --template=SOURCE_DICOM_DIR

Methods: fbp, cg, sirt, admm_tv, fista_tv (no prior needed); dds, mbir, dps, pigdm, ddnm, diffpir, red_diff,
replacement. ``--settings=steps=30,weight=0.002`` changes a method's own. ``result.json`` and ``planes.png``
come to lie beside the volume. The state is saved twice a minute; the same command goes on from it.
"""

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jaxtyping import Float

from diffax import checks
from diffax.evaluation import write_result
from diffax.io import write_dicom, write_nifti
from experiments import devices, main, sources
from experiments.diffusion_mbir import drive, measures, method, pictures, priors, scan
from experiments.figures import as_figures
from experiments.progress import Counted, say

Images = Float[np.ndarray, "rows columns slices"]


def program(argv: Sequence[str]) -> None:
    """Reconstruct what the flags ask for."""
    values = {name: flag.value for name, flag in flags.FLAGS.__flags.items()}
    for name in ("measurements", "out"):
        checks.require(bool(values[name]), f"--{name}", values[name], "a path")
    out, name = Path(values["out"]), str(values["method"])
    settings = method.settings_of(name, parse_settings(values["settings"]))
    check_out(out, values["template"])
    needs = name in method.DIFFUSION
    checks.require(
        not needs or bool(values["prior"]), "--prior", values["prior"], f"a trained run, for {name}"
    )
    measured = scan.read_scan(values["measurements"])
    truth = read_truth(values["reference"], measured)
    main.start_jax()
    begun = time.monotonic()
    images, about = (posterior if needs else classical)(measured, name, settings, values)
    write(out, values["template"], images, measured, name)
    about |= {"seconds": time.monotonic() - begun, "peak_gib": peak_gib()}
    report(out, images, truth, measured, name, settings, about)


def classical(
    measured: scan.Scan, name: str, settings: dict[str, Any], values: dict[str, Any]
) -> tuple[Images, dict[str, float]]:
    """A method without a prior."""
    solve = jax.jit(
        lambda problem: method.reconstruct_classically(name, measured.geometry, problem, settings)
    )
    return np.asarray(solve(measured.problem())), {}


def posterior(
    measured: scan.Scan, name: str, settings: dict[str, Any], values: dict[str, Any]
) -> tuple[Images, dict[str, float]]:
    """The mean of ``--samples`` draws of a method with a prior."""
    count = int(values["samples"])
    checks.require(count >= 1, "--samples", count, "at least 1")
    prior = priors.load_prior(values["prior"], values["checkpoint"])
    priors.check_fits(prior, measured.geometry, measured.value_range, str(values["measurements"]))
    mesh = devices.open_mesh("-1x1x1", 1)
    problem, total = measured.problem(), np.zeros(measured.geometry.shape, np.float32)
    calls = 0
    for draw in range(count):
        work = drive.Work(
            name,
            settings,
            prior.denoise,
            seed=int(values["seed"]) + draw,
            chunk=int(values["chunk"]),
            mesh=mesh,
        )
        partial = partial_name(Path(values["out"]), draw)
        label = name if count == 1 else f"{name} {draw + 1}/{count}"
        images, calls = drive.run(work, problem, prior.params, partial=partial, progress=Counted(label))
        total += images / count
    return total, {"nfe": float(calls * count)}


def partial_name(out: Path, draw: int) -> Path:
    """Where the state is kept while the work goes on."""
    return out.parent / f".{out.name}.{draw}.partial.npz"


def parse_settings(text: str) -> dict[str, Any]:
    """``name=value,...`` with numbers as numbers."""
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        checks.require(bool(equals) and bool(value), "--settings", part, "name=value,...")
        found[name] = _number(value)
    return found


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def check_out(out: Path, template: str) -> None:
    """``ValueError`` now for what could not be written at the end of long work."""
    if is_nifti(out):
        checks.require(not template, "--template", template, "none: it is for a DICOM folder as --out")
        checks.require(not out.is_dir(), "--out", str(out), "not an existing folder")
        return
    allowed = "a .nii or .nii.gz, or a new or empty folder for DICOM"
    free = not out.suffix and (not out.exists() or (out.is_dir() and not any(out.iterdir())))
    checks.require(free, "--out", str(out), allowed)


def is_nifti(path: Path) -> bool:
    """Whether a name asks for NIfTI."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_truth(name: str, measured: scan.Scan) -> Images | None:
    """The reference, cropped and resized as the scan's volume was; None where there is none."""
    if not name:
        return None
    size = measured.geometry.shape[0]
    volume = sources.fit(sources.open_volume(name, size), size, measured.value_range, name)
    images = scan.as_images(volume, measured.value_range)
    allowed = f"{measured.geometry.shape}, as the scan's"
    checks.require(images.shape == measured.geometry.shape, f"{name}: shape", images.shape, allowed)
    return images


def write(out: Path, template: str, images: Images, measured: scan.Scan, name: str) -> None:
    """The volume in the source's frame and units, and the state of the work gone."""
    volume = scan.as_volume(images, measured)
    tag = f"diffax {name}, {measured.geometry.task}"
    if is_nifti(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(out, volume, description=tag)
    else:
        modality = measured.geometry.modality.upper()
        write_dicom(out, volume, description=tag, template=template or None, modality=modality)
    for partial in out.parent.glob(f".{out.name}.*.partial.npz"):
        partial.unlink()
    say(f"wrote {out}", sys.stdout)


def report(
    out: Path,
    images: Images,
    truth: Images | None,
    measured: scan.Scan,
    name: str,
    settings: dict[str, Any],
    about: dict[str, float],
) -> None:
    """``result.json`` and ``planes.png`` beside the volume."""
    found = {"residual": measures.misfit(measured.problem(), images), **about}
    if truth is not None:
        found |= measures.agreement(images, truth)
    notes = {
        "method": name,
        "settings": {k: v if isinstance(v, (int, float, str)) else str(v) for k, v in settings.items()},
        "task": measured.geometry.task,
        "source": measured.source,
        "data_range": measures.DATA_RANGE,
        **devices.environment(),
    }
    extractor = "voxels in [0, 1]"
    figures = as_figures(
        {"": found}, n_fake=1, n_real=int(truth is not None), split="volume", extractor=extractor
    )
    write_result(out.parent / "result.json", figures, notes)
    pictures.planes(
        out.parent / "planes.png", {name: images}, truth, title=f"{name}, {measured.geometry.task}"
    )
    say(" ".join(f"{key} {value:.4g}" for key, value in found.items()), sys.stdout)
    say(f"wrote {out.parent / 'result.json'} and {out.parent / 'planes.png'}", sys.stdout)


def peak_gib() -> float:
    """The most memory that the device, or on a CPU the process, has held."""
    stats = jax.devices()[0].memory_stats() or {}
    used = stats.get("peak_bytes_in_use") or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(used) / 2**30


if __name__ == "__main__":
    flags.DEFINE_string("measurements", "", "a scan (.npz), as simulate writes it")
    flags.DEFINE_string("method", "dds", "see above")
    flags.DEFINE_string("prior", "", "folder of a run that trained on slices")
    flags.DEFINE_string("checkpoint", "newest", "newest, best, or a step")
    flags.DEFINE_string("out", "", "a .nii, a .nii.gz, or a folder for DICOM")
    flags.DEFINE_string("template", "", "DICOM folder whose patient, study and orientation the result shares")
    flags.DEFINE_string("reference", "", "the true volume, to compare with: a file, a folder, or torso:N")
    flags.DEFINE_string("settings", "", "name=value,... of the method")
    flags.DEFINE_integer("samples", 1, "posterior samples whose mean is written")
    flags.DEFINE_integer("chunk", 64, "slices that go through the network together")
    flags.DEFINE_integer("seed", 0, "of the noise")
    sys.exit(main.run(program))
