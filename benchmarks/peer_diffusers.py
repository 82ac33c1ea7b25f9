"""The peer's half of the benchmarks, in PyTorch: prints one line of JSON. Started by the other scripts."""

import json
import statistics
import sys
import time
from functools import partial

import diffusers
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UNet2DModel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make_unet(spec):
    down = ["AttnDownBlock2D" if a else "DownBlock2D" for a in spec["attention"]]
    up = ["AttnUpBlock2D" if a else "UpBlock2D" for a in spec["attention"]][::-1]
    model = UNet2DModel(
        sample_size=spec["size"], in_channels=spec["image_channels"], out_channels=spec["image_channels"],
        block_out_channels=tuple(spec["channels"]), layers_per_block=spec["blocks"],
        down_block_types=down, up_block_types=up, attention_head_dim=max(spec["channels"]),
        norm_num_groups=min(32, min(spec["channels"])), add_attention=True,
    )  # fmt: skip
    return model.to(DEVICE, memory_format=torch.channels_last)


def median_seconds(run, repeats, warm_up=3):
    times = []
    for i in range(repeats + warm_up):
        start = time.perf_counter()
        run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        if i >= warm_up:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def images(spec):
    x = torch.randn(spec["batch"], spec["image_channels"], spec["size"], spec["size"], device=DEVICE)
    return x.contiguous(memory_format=torch.channels_last)


def training(spec, repeats, cast, compiled=False):
    model = torch.compile(make_unet(spec)) if compiled else make_unet(spec)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    x, eps = images(spec), images(spec)
    t = torch.randint(0, 1000, (spec["batch"],), device=DEVICE)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with cast:
            loss = ((model(x, t).sample - eps) ** 2).mean()
        loss.backward()
        optimizer.step()

    seconds = median_seconds(step, repeats)
    return {"seconds": seconds, "params": sum(p.numel() for p in model.parameters())}


@torch.no_grad()
def sampling(spec, repeats, cast):
    model = make_unet(spec).eval()
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")

    def run():
        scheduler.set_timesteps(20)
        x = images(spec)
        with cast:
            for t in scheduler.timesteps:
                x = scheduler.step(model(x, t).sample, t, x).prev_sample

    return {"seconds": median_seconds(run, repeats, warm_up=1)}


@torch.no_grad()
def overhead(spec, repeats, cast):
    result = {}
    for name, scheduler in {
        "ddim": DDIMScheduler(clip_sample=False, timestep_spacing="trailing"),
        "dpmpp_2m": DPMSolverMultistepScheduler(timestep_spacing="trailing"),
    }.items():

        def run(scheduler=scheduler):
            scheduler.set_timesteps(100)
            x = images(spec)
            for t in scheduler.timesteps:
                x = scheduler.step(0.5 * x, t, x).prev_sample

        result[name] = median_seconds(run, repeats) / 100
    return result


if __name__ == "__main__":
    task, spec, repeats, dtype = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    half = torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=dtype == "bfloat16")
    tasks = {
        "training": training, "training_compiled": partial(training, compiled=True),
        "sampling": sampling, "overhead": overhead,
    }  # fmt: skip
    out = tasks[task](spec, repeats, half)
    print(
        json.dumps({**out, "torch": torch.__version__, "diffusers": diffusers.__version__, "device": DEVICE})
    )
