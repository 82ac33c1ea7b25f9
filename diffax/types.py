"""The vocabulary of the library: one function type, everything else acts on it.

A model is a pure function ``denoise(x_t, t, cond) -> x0_hat`` that estimates ``E[x0 | x_t]``.
Guidance and preconditioning map such functions to such functions; samplers consume them.

``cond`` is ``None`` or a mapping of arrays with a leading batch axis. Two names are shared by every
model, loss and guidance rule of this library:

* ``"label"``          integer classes, ``Int[Array, "b"]``;
* ``"unconditional"``  ``Bool[Array, "b"]``, true where the model must ignore the other entries
  (how classifier-free guidance asks for the unconditional estimate, and how training drops labels).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Key

Params = Any  # a pytree of arrays, as flax makes it
Cond = Mapping[str, Any]  # arrays with the samples first, or (several cameras' images) mappings of them
Keys = Key[Array, "b"]  # one typed key per sample
Size = Any  # the length of an axis: an int, or a symbol where a function is exported for any length
Scalar = float | Float[Array, ""]
Values = Array | np.ndarray | float | Sequence[Any]  # numbers that become an array: lists are welcome

# denoise(x: Float["b ..."], t: Float["b"], cond) -> Float["b ..."], the estimate of E[x0 | x_t = x]
DenoiseFn = Callable[[Array, Array, Cond | None], Array]
DenoiseTransform = Callable[[DenoiseFn], DenoiseFn]
# apply_fn(params, x: Float["b ..."], time: Float["b"], cond) -> Float["b ..."], a raw network
ApplyFn = Callable[[Params, Array, Array, Cond | None], Array]
