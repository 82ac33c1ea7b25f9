r"""A transformer that denoises sequences of actions, whose experts are picked by the noise level alone.

    tokens = [noise, goal, (proprioception, observations, images) of each past step, actions]
    h      = tokens + attention(norm(tokens) + e),         e = W2 (W1 c + b1),  c = log(sigma) / 4
    tokens = h + experts(norm(h), routing(e))              # "prenorm"; "official": norm(h) + experts(norm(h))
    F      = linear(norm(tokens of the actions))

Attention is causal. As the routing follows from the noise level, the experts of every step of a sampler are
known beforehand: :mod:`diffax.models.expert_cache`. Source: Reuss et al. 2025 (arXiv:2412.12953), whose eq. 4
adds to h and whose published code adds to norm(h): the two residual styles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from diffax.checks import require, require_number, require_one_of
from diffax.models.features import keep
from diffax.models.film_resnet import ENCODERS, NORMS, Cameras
from diffax.models.layers.attention import SelfAttention
from diffax.models.layers.conv import dense
from diffax.models.layers.embedding import check_time
from diffax.models.layers.experts import (
    Expert,
    ExpertBank,
    Router,
    Routing,
    check_experts,
    choose,
    load_balance,
    run_expert,
)
from diffax.models.layers.norm import modulate
from diffax.types import Cond

ROUTERS = ("noise", "token", "both")
RESIDUALS = ("prenorm", "official")
NOISE_CONDITIONING = ("add", "film", "none")
LOSSES = "losses"  # the collection of auxiliary losses that training reads


class Picked(NamedTuple):
    """One layer at one noise level: all its experts, the numbers of the k that run, and their gates."""

    experts: Sequence[Expert]
    chosen: Int[Array, "k"]
    gates: Float[Array, "k"]


class ExpertBlock(nn.Module):
    """Attention, then a mixture of experts, over the tokens of each sample; options are the network's."""

    width: int
    heads: int
    experts: int
    top_k: int
    hidden: int
    shared_expert: bool
    router: str
    noise_conditioning: str
    residual: str
    attention_dropout: float
    dropout: float
    dtype: Any

    def setup(self) -> None:
        """Layers by name; a single expert needs no router."""
        self.attention = SelfAttention(
            self.heads,
            dtype=self.dtype,
            causal=True,
            norm_heads=True,
            out_bias=False,
            dropout=self.attention_dropout,
        )
        self.norm_attention = nn.RMSNorm(dtype=self.dtype)
        self.norm_experts = nn.RMSNorm(dtype=self.dtype)
        self.bank = ExpertBank(self.experts, self.hidden, self.dropout, dtype=self.dtype)
        if self.experts > 1:
            self.routing = Router(self.experts)
        if self.shared_expert:
            self.shared = ExpertBank(1, self.hidden, self.dropout, dtype=self.dtype)
        if self.noise_conditioning == "film":
            self.modulation = dense(2 * self.width, zero_init=True, dtype=self.dtype)

    def __call__(
        self,
        tokens: Float[Array, "b n d"],
        noise: Float[Array, "b d"],
        train: bool = False,
        picked: Picked | None = None,
    ) -> Float[Array, "b n d"]:
        """Transform the tokens; ``picked`` stands for router and bank where experts were chosen before."""
        tokens = tokens + self.attention(self.condition(tokens, noise), train)
        h = self.norm_experts(tokens)
        mixed = self.mix(h, noise, train) if picked is None else run_picked(picked, h)
        if self.shared_expert:
            mixed += self.shared(h, choose(jnp.zeros((h.shape[0], 1)), 1), train)
        return (tokens if self.residual == "prenorm" else h) + mixed

    def condition(self, tokens: Float[Array, "b n d"], noise: Float[Array, "b d"]) -> Float[Array, "b n d"]:
        """What attention reads: normalised tokens under the noise level."""
        h = self.norm_attention(tokens)
        if self.noise_conditioning == "film":
            return modulate(h, *jnp.split(self.modulation(nn.silu(noise))[:, None], 2, axis=-1))
        return h + noise[:, None] if self.noise_conditioning == "add" else h

    def mix(self, h: Float[Array, "b n d"], noise: Float[Array, "b d"], train: bool) -> Float[Array, "b n d"]:
        """The bank under the router's choice, which training draws and whose balance it is offered."""
        read = {"noise": noise, "token": h, "both": h + noise[:, None]}[self.router]
        draws = train and self.routed < self.experts
        routing = self.route(read, self.make_rng("dropout") if draws else None)
        if train and self.experts > 1:
            self.sow(LOSSES, "load_balance", load_balance(routing))
        return self.bank(h, routing, train, grouped=train)

    def route(self, read: Float[Array, "b *n d"], key: Any = None) -> Routing:
        """The router's choice for what it reads."""
        logits = self.routing(read) if self.experts > 1 else jnp.zeros((*read.shape[:-1], 1))
        return choose(logits, self.routed, key)

    @property
    def routed(self) -> int:
        """Experts that the router picks: one fewer where another is shared."""
        return self.top_k - 1 if self.shared_expert else self.top_k


class ActionTransformer(nn.Module):
    """Mixture of denoising experts over actions, ``model.apply({"params": p}, x, time, cond, train=False)``.

    ``x`` is Float["b t a"], t noisy actions of a numbers each; ``time`` Float["b"] is ``log(sigma) / 4``
    ("c_noise" of :func:`diffax.bind`); ``cond`` a mapping with

    * ``"goal"``: Float["b g"], a vector that says what is to be done, dropped where
      ``cond["unconditional"]``, Bool["b"], is true; absent: no goal is ever given;
    * ``"observation"``: Float["b h m o"], of each of h past steps m tokens of o numbers, each of the m with a
      projection of its own; ``"proprio"``: Float["b h p"], or absent;
    * ``"images"``: a mapping from names of cameras to Float["b h H W 3"], of each past step an image as
      :class:`FilmResNet` reads it, of a size that may differ by camera; or Float["b h f"], what
      :meth:`encode` made of it. One token a camera and step, in the order of the names; absent: none.

    The output has the shape and dtype of ``x``. Positions are points in time: all tokens of a step share one,
    the first action that of the last observation.

    * ``width``: of tokens, a multiple of ``heads``. ``depth``: blocks. ``experts``, ``top_k``: how many there
      are, and run; one expert makes a dense network. ``mlp_ratio``: hidden width of an expert, in widths.
    * ``shared_expert``: one more that always runs, beside ``top_k - 1`` chosen ones.
    * ``router``: "noise", "token" or "both". ``noise_token``: whether there is one. ``noise_conditioning`` of
      attention: "add", "film" or "none". ``residual``: "prenorm" or "official".
    * ``attention_dropout`` of the softmax, ``dropout`` of experts' hidden units.
    * ``image_encoder``: "resnet18" or "resnet50", one for each camera, under the goal; ``image_norm``:
      "group" or "frozen" (:class:`FilmResNet`).
    * ``dtype``: of the computation; parameters, the softmax and the router stay float32.

    In training (``train=True``, with a "dropout" key) experts are drawn, one set for each sample, and every
    layer's load balance stands in the collection ``"losses"``. Raises ValueError for options outside of these
    and inputs of other shapes.
    """

    width: int = 1024
    depth: int = 12
    heads: int = 8
    experts: int = 4
    top_k: int = 2
    mlp_ratio: float = 4.0
    shared_expert: bool = False
    router: str = "noise"
    noise_token: bool = True
    noise_conditioning: str = "add"
    residual: str = "prenorm"
    attention_dropout: float = 0.0
    dropout: float = 0.0
    image_encoder: str = "resnet18"
    image_norm: str = "group"
    dtype: Any = None

    def setup(self) -> None:
        """Every layer but the embeddings, whose sizes follow from the inputs."""
        self.check_options()
        self.noise_in = dense(self.width)
        self.noise_out = dense(self.width, bias=False)
        shared = {f.name for f in fields(ExpertBlock)} & {f.name for f in fields(self)}
        options = {name: getattr(self, name) for name in shared - {"parent", "name"}}
        hidden = int(self.mlp_ratio * self.width)
        self.blocks = [ExpertBlock(hidden=hidden, **options) for _ in range(self.depth)]
        self.cameras = Cameras(self.image_encoder, self.image_norm, self.dtype)
        self.tokens = Tokens(self.width, self.dtype)
        self.norm = nn.RMSNorm(dtype=self.dtype)
        self.head = Head(self.dtype)

    def __call__(
        self,
        x: Float[Array, "b t a"],
        time: Float[Array, "b"],
        cond: Cond | None = None,
        train: bool = False,
        picked: Sequence[Picked] | None = None,
    ) -> Float[Array, "b t a"]:
        """Run the network; ``picked``: for each block, instead of its router and bank."""
        require(x.ndim == 3, "x.shape", x.shape, "(batch, actions, numbers of an action)")
        check_time(time, x.shape[0])
        noise = self.embed_noise(time)
        tokens = self.tokens(x, self.encode(cond or {}))
        if self.noise_token:
            tokens = jnp.concatenate([noise[:, None].astype(tokens.dtype), tokens], axis=1)
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, noise.astype(tokens.dtype), train, picked[index] if picked else None)
            keep(self, f"hidden{index}", tokens)
        return self.head(self.norm(tokens[:, -x.shape[1] :]), x)

    def encode(self, cond: Cond) -> dict[str, Any]:
        """``cond`` with features in place of images, ``model.apply({"params": p}, cond, method="encode")``.

        A sampler calls the network many times with the same images, which need encoding once. Features know
        the goal that they were made under: where guidance asks for an estimate without it, give images.
        """
        if "images" not in cond:
            return dict(cond)
        images = cond["images"]
        named = isinstance(images, Mapping) and len(images) > 0
        require(named, "cond['images']", type(images).__name__, "a mapping from one camera's name or more")
        return {**cond, "images": self.cameras(images, told_goal(cond))}

    def embed_noise(self, time: Float[Array, "b"]) -> Float[Array, "b d"]:
        """Affine in the time, in float32: no sines."""
        return self.noise_out(self.noise_in(time[:, None].astype(jnp.float32)))

    def route(self, time: Float[Array, "s"]) -> list[Routing]:
        """Every layer's choice at inference, from the times alone; needs ``router="noise"``."""
        require(self.router == "noise", "router", self.router, "'noise': others read what is observed")
        return [block.route(self.embed_noise(time)) for block in self.blocks]

    @nn.nowrap
    def check_options(self) -> None:
        """Raise ``ValueError`` for options that no network has; needs no parameters."""
        check_experts(self.experts, self.top_k)
        least = 2 if self.shared_expert else 1
        require(self.top_k >= least, "top_k", self.top_k, "2 or more beside a shared expert")
        require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of the width {self.width}")
        require_one_of("router", self.router, ROUTERS)
        require_one_of("residual", self.residual, RESIDUALS)
        require_one_of("noise_conditioning", self.noise_conditioning, NOISE_CONDITIONING)
        require_one_of("image_encoder", self.image_encoder, ENCODERS)
        require_one_of("image_norm", self.image_norm, NORMS)
        for name in ("dropout", "attention_dropout"):
            require_number(name, getattr(self, name), -1e-9, 1.0, "a number in [0, 1)")


class Tokens(nn.Module):
    """The goal, what was observed and the actions as tokens with positions in time."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b t a"], cond: Cond) -> Float[Array, "b n d"]:
        """Linear maps without bias, and a learned table of positions for all but the goal's own."""
        seen = self._observed(cond, x.shape[0])
        steps = seen[0].shape[1] if seen else 1
        table = nn.initializers.normal(0.02)
        positions = self.param("positions", table, (steps + x.shape[1], self.width)).astype(x.dtype)
        tokens = []
        goal = told_goal(cond)
        if goal is not None:
            tokens.append((self._map("goal", goal) + positions[0])[:, None])
        for step in range(steps if seen else 0):
            tokens += [group[:, step] + positions[1 + step] for group in seen]
        tokens.append(self._map("actions", x) + positions[steps:])
        return jnp.concatenate(tokens, axis=1)

    def _observed(self, cond: Cond, batch: Any) -> list[Float[Array, "b h m d"]]:
        """Proprioception, observations and every camera, (batch, steps, tokens, width) each."""
        found = []
        if "proprio" in cond:
            found.append(self._map("proprio", cond["proprio"])[:, :, None])
        if "observation" in cond:
            given = cond["observation"]
            allowed = f"({batch}, steps, tokens, numbers)"
            require(
                given.ndim == 4 and given.shape[0] == batch, "cond['observation'].shape", given.shape, allowed
            )
            maps = [self._map(f"observation{i}", given[:, :, i]) for i in range(given.shape[2])]
            found.append(jnp.stack(maps, axis=2))
        for name, features in sorted(cond.get("images", {}).items()):
            field, steps = f"cond['images'][{name!r}]", (found or [features])[0].shape[1]
            fits = features.shape[:2] == (batch, steps)
            require(fits, f"{field}: batch and steps", features.shape[:2], f"({batch}, {steps})")
            found.append(self._map(f"image_{name}", features)[:, :, None])
        return found

    @nn.nowrap
    def _map(self, name: str, values: Array) -> Array:
        return dense(self.width, bias=False, dtype=self.dtype, name=name)(values)


def told_goal(cond: Cond) -> Float[Array, "b g"] | None:
    """The goal, zeros where a sample must not know it; None where there is none."""
    if "goal" not in cond or "unconditional" not in cond:
        return cond.get("goal")
    return jnp.where(cond["unconditional"][:, None], 0, cond["goal"])


class Head(nn.Module):
    """A linear map of each action's token to the action's numbers."""

    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: Float[Array, "b t d"], x: Float[Array, "b t a"]) -> Float[Array, "b t a"]:
        """As many numbers as ``x`` has, in its dtype."""
        return dense(x.shape[-1], dtype=self.dtype, name="out")(tokens).astype(x.dtype)


def run_picked(picked: Picked, h: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """The gated sum of the chosen experts; each is read where it lies, without a copy of its weights."""
    runs = [lambda x, e=expert: run_expert(e, x) for expert in picked.experts]
    ks = range(picked.chosen.shape[0])
    return sum(picked.gates[k].astype(h.dtype) * jax.lax.switch(picked.chosen[k], runs, h) for k in ks)
