"""Networks: flax modules called as ``model.apply({"params": p}, x, time, cond, train=False)``."""

from diffax.models.dit import DiT
from diffax.models.mlp import MLP, Perceptron
from diffax.models.ncsnpp import NCSNpp
from diffax.models.rules import TENSOR_RULES
from diffax.models.unet import UNet

__all__ = ["MLP", "TENSOR_RULES", "DiT", "NCSNpp", "Perceptron", "UNet"]
