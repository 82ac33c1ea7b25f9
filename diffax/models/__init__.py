"""Networks: flax modules called as ``model.apply({"params": p}, x, time, cond, train=False)``."""

from diffax.models.discriminators import FeatureHeads, PairDiscriminator
from diffax.models.dit import DiT
from diffax.models.encoders import NoisyClassifier
from diffax.models.expert_cache import (
    ExpertCache,
    apply_cached,
    build_cache,
    cache_bytes,
    check_cache,
)
from diffax.models.features import apply_keeping
from diffax.models.film_resnet import FilmResNet, normalise_images, with_torchvision
from diffax.models.mlp import MLP, Perceptron
from diffax.models.moe import ActionTransformer
from diffax.models.ncsnpp import NCSNpp, StyledNCSNpp
from diffax.models.rules import TENSOR_RULES
from diffax.models.unet import UNet, UNet3D

__all__ = [
    "MLP",
    "TENSOR_RULES",
    "ActionTransformer",
    "DiT",
    "ExpertCache",
    "FeatureHeads",
    "FilmResNet",
    "NCSNpp",
    "NoisyClassifier",
    "PairDiscriminator",
    "Perceptron",
    "StyledNCSNpp",
    "UNet",
    "UNet3D",
    "apply_cached",
    "apply_keeping",
    "build_cache",
    "cache_bytes",
    "check_cache",
    "normalise_images",
    "with_torchvision",
]
