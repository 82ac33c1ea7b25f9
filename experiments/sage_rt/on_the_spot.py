"""The small decoder that learns Toyland while one waits: trained once for a run's folder, then read."""

from pathlib import Path

from experiments import modes
from experiments.progress import say
from experiments.sage_rt import settings
from experiments.sage_rt.chat_model import ChatModel


def toyland_model(folder: Path, variant: str = "demo") -> ChatModel:
    """The decoder in ``folder/toyland_lm``; what was stopped goes on. Raises InterruptedError on SIGTERM."""
    place, config = folder / "toyland_lm", settings.lm_variant_of(variant)
    if not (place / "result.json").exists():
        say(f"training a small decoder in {place}")
        if not modes.train(config, str(place)):
            raise InterruptedError("the training was stopped; the same command goes on with it")
        modes.evaluate(config, str(place))
    return ChatModel.read(place / "model")
