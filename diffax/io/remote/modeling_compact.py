"""Llama and OPT decoders whose layers have widths of their own, for `transformers` with remote code.

Written beside compact checkpoints; needs torch and transformers alone (4.48 or later, for OPT 4.56). What
differs from the stock models stands in config.json under "layers": ``hidden`` units, numbers of a head's
``keys`` and ``values``, ``ranks`` of maps that are products of two (``q_proj_in``, then ``q_proj``), widths
of the residual ``stream``. Rotary pairs that are left (those among the tensors, where ``pairs`` says so) keep
their frequencies, and scores the scale of the whole head.
"""

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm
from transformers.models.opt.modeling_opt import OPTDecoderLayer

LLAMA = {
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "out": "o_proj",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
}
OPT = {**LLAMA, "out": "out_proj", "up": "fc1", "down": "fc2"}


class CompactLlamaConfig(LlamaConfig):
    """Of Llama, with ``layers``."""

    model_type = "compact_llama"

    def __init__(self, layers: list[dict[str, Any]] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = layers or []


class CompactOPTConfig(OPTConfig):
    """Of OPT, with ``layers``."""

    model_type = "compact_opt"

    def __init__(self, layers: list[dict[str, Any]] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = layers or []


class Maps(nn.Module):
    """A module with linear maps by name, some of them products of two."""

    def add(self, name: str, into: int, out: int, bias: bool = False, rank: int | None = None) -> None:
        """One more."""
        if rank:
            self.add_module(f"{name}_in", nn.Linear(into, rank, bias=False))
        self.add_module(name, nn.Linear(rank or into, out, bias=bias))

    def map(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """What it makes of x."""
        first = self._modules.get(f"{name}_in")
        return self._modules[name](first(x) if first is not None else x)


def as_stock(stock: type[nn.Module], h: torch.Tensor) -> Any:
    """What a layer returns: before version 5, where it may add its attention, a tuple."""
    return (h,) if "output_attentions" in inspect.signature(stock.forward).parameters else h


class CompactAttention(Maps):
    """Causal attention whose heads have fewer numbers of keys, at the places that are left, and of values."""

    def __init__(self, config: Any, number: int, about: dict[str, Any], names: dict[str, str]) -> None:
        super().__init__()
        self.number, self.names, self.heads = number, names, config.num_attention_heads
        self.groups = getattr(config, "num_key_value_heads", None) or self.heads
        whole = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.scale, self.whole = whole**-0.5, whole
        before, middle, _ = about["stream"] or (config.hidden_size,) * 3
        keys, values, rank = about["keys"], about["values"], about["ranks"].get
        bias = names is OPT
        self.add(names["query"], before, self.heads * keys, bias, rank("query"))
        self.add(names["key"], before, self.groups * keys, bias, rank("key"))
        self.add(names["value"], before, self.groups * values, bias, rank("value"))
        self.add(names["out"], self.heads * values, middle, bias, rank("out"))
        if about["pairs"]:
            self.register_buffer("rotary_pairs", torch.zeros(self.groups, keys // 2, dtype=torch.int32))

    def forward(self, x: torch.Tensor, mask: Any, rotation: Any, cache: Any) -> torch.Tensor:
        """Values of earlier tokens, mixed."""
        split = (*x.shape[:-1], -1)
        q = self.map(self.names["query"], x).view(*x.shape[:-1], self.heads, -1).transpose(1, 2)
        k = self.map(self.names["key"], x).view(*x.shape[:-1], self.groups, -1).transpose(1, 2)
        v = self.map(self.names["value"], x).view(*x.shape[:-1], self.groups, -1).transpose(1, 2)
        if rotation is not None:
            q, k = self.rotate(q, rotation), self.rotate(k, rotation)
        if cache is not None:
            k, v = cache.update(k, v, self.number)
        k, v = (part.repeat_interleave(self.heads // self.groups, dim=1) for part in (k, v))
        if mask is not None:
            mask = mask[..., : k.shape[2]]
        causal = mask is None and x.shape[1] > 1
        mixed = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=self.scale)
        return self.map(self.names["out"], mixed.transpose(1, 2).reshape(split))

    def rotate(self, x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Each pair by the angle of its own frequency."""
        cos, sin = (part.unsqueeze(1) for part in rotation)  # (b, 1, t, whole)
        if hasattr(self, "rotary_pairs"):
            pairs = self.rotary_pairs.long().repeat_interleave(x.shape[1] // self.groups, dim=0)
            places = torch.cat([pairs, pairs + self.whole // 2], dim=1)[None, :, None]
            places = places.expand(cos.shape[0], -1, cos.shape[2], -1)
            cos, sin = (part.expand(-1, x.shape[1], -1, -1).gather(3, places) for part in (cos, sin))
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin


class CompactMLP(Maps):
    """Llama's perceptron."""

    def __init__(self, config: Any, about: dict[str, Any]) -> None:
        super().__init__()
        _, middle, after = about["stream"] or (config.hidden_size,) * 3
        for name, into, out in (("gate", middle, about["hidden"]), ("up", middle, about["hidden"])):
            self.add(LLAMA[name], into, out, rank=about["ranks"].get(name))
        self.add(LLAMA["down"], about["hidden"], after, rank=about["ranks"].get("down"))
        self.act = ACT2FN[config.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Hidden units, read."""
        return self.map("down_proj", self.act(self.map("gate_proj", x)) * self.map("up_proj", x))


class CompactLlamaLayer(Maps, LlamaDecoderLayer):
    """One layer of Llama; shortcuts are maps where the stream's width changes."""

    def __init__(self, config: Any, number: int) -> None:
        nn.Module.__init__(self)  # of the stock layer only what transformers does with its kind
        about = config.layers[number]
        self.stream = about["stream"]
        before, middle, after = self.stream or (config.hidden_size,) * 3
        self.self_attn = CompactAttention(config, number, about, LLAMA)
        self.mlp = CompactMLP(config, about)
        self.input_layernorm = LlamaRMSNorm(before, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(middle, eps=config.rms_norm_eps)
        if self.stream:
            self.add("turn_attention", before, middle)
            self.add("turn_mlp", middle, after)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Any = None,
        position_embeddings: Any = None,
        past_key_values: Any = None,
        past_key_value: Any = None,  # its name before version 4.56
        **_: Any,
    ) -> Any:
        """The stream after the layer."""
        h, cache = hidden_states, past_key_value if past_key_values is None else past_key_values
        mixed = self.self_attn(self.input_layernorm(h), attention_mask, position_embeddings, cache)
        h = (self.map("turn_attention", h) if self.stream else h) + mixed
        read = self.mlp(self.post_attention_layernorm(h))
        return as_stock(LlamaDecoderLayer, (self.map("turn_mlp", h) if self.stream else h) + read)


class CompactOPTLayer(Maps, OPTDecoderLayer):
    """One layer of OPT, with norms before its parts."""

    def __init__(self, config: Any, number: int) -> None:
        nn.Module.__init__(self)  # of the stock layer only what transformers does with its kind
        about = config.layers[number]
        self.self_attn = CompactAttention(config, number, about, OPT)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size)
        self.add("fc1", config.hidden_size, about["hidden"], True, about["ranks"].get("up"))
        self.add("fc2", about["hidden"], config.hidden_size, True, about["ranks"].get("down"))
        self.act = ACT2FN[config.activation_function]

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: Any = None, past_key_values: Any = None, **_: Any
    ) -> Any:
        """The stream after the layer."""
        h = hidden_states
        h = h + self.self_attn(self.self_attn_layer_norm(h), attention_mask, None, past_key_values)
        h = h + self.map("fc2", self.act(self.map("fc1", self.final_layer_norm(h))))
        return as_stock(OPTDecoderLayer, h)


class CompactLlamaForCausalLM(LlamaForCausalLM):
    """Llama with these layers."""

    config_class = CompactLlamaConfig
    _no_split_modules = ("CompactLlamaLayer",)
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config: CompactLlamaConfig) -> None:
        super().__init__(config)
        numbers = range(config.num_hidden_layers)
        self.model.layers = nn.ModuleList([CompactLlamaLayer(config, number) for number in numbers])
        first, last = config.layers[0]["stream"], config.layers[-1]["stream"]
        if first:
            self.model.embed_tokens = nn.Embedding(config.vocab_size, first[0])
            self.model.norm = LlamaRMSNorm(last[2], eps=config.rms_norm_eps)
            self.lm_head = nn.Linear(last[2], config.vocab_size, bias=False)
        self.post_init()


class CompactOPTForCausalLM(OPTForCausalLM):
    """OPT with these layers."""

    config_class = CompactOPTConfig
    _no_split_modules = ("CompactOPTLayer",)
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config: CompactOPTConfig) -> None:
        super().__init__(config)
        numbers = range(config.num_hidden_layers)
        self.model.decoder.layers = nn.ModuleList([CompactOPTLayer(config, number) for number in numbers])
        self.post_init()
