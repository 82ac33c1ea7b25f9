r"""f-divergences between what a generator draws and what it should draw, and the weights of their gradients.

With p the law to be matched (the teacher, or data), q the generator's and the ratio ``r = p / q``,

    D_f(p || q) = E_q f(r),   f convex, f(1) = 0
    grad D_f    = -E h(r) (grad log p(x) - grad log q(x)) dx,   h(r) = f''(r) r^2,   x drawn from q

so that a divergence is one weight per sample on the difference of two scores:

==============  ==========================  ============  =====================================
name            f(r)                        h(r)
==============  ==========================  ============  =====================================
reverse_kl      -log r                      1             seeks modes
softened_rkl    (r + 1) log(1/2 + 1/(2r))   1 / (r + 1)   seeks modes more; low variance
jensen_shannon  r log r                     r / (r + 1)   between; saturates; low variance
                - (r + 1) log((r + 1)/2)
hellinger       1 - sqrt r                  sqrt(r) / 4   between; low variance
forward_kl      r log r                     r             covers modes; high variance
jeffreys        (r - 1) log r               r + 1         covers modes; high variance
neyman          (1 - r)^2 / r               2 / r         chi^2 with p and q exchanged
pearson         (r - 1)^2                   2 r^2         chi^2; highest variance
==============  ==========================  ============  =====================================

Jensen-Shannon's and the softened h add up to the reverse KL's, the two KLs' to Jeffreys', and so do the
divergences. Sources: Xu, Nie, Vahdat 2025 (arXiv:2502.15681), theorem 1 and table 1; the two chi^2 from
Nowozin et al. 2016 (arXiv:1606.00709).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffax import checks

RatioFn = Callable[[Array], Array]  # of ratios, elementwise


class Divergence(NamedTuple):
    """f and ``h(r) = f''(r) r^2``, each of an array of ratios p / q > 0 of any shape."""

    f: RatioFn
    h: RatioFn


DIVERGENCES: dict[str, Divergence] = {
    "reverse_kl": Divergence(lambda r: -jnp.log(r), jnp.ones_like),
    "softened_rkl": Divergence(lambda r: (r + 1) * jnp.log(0.5 + 0.5 / r), lambda r: 1 / (r + 1)),
    "jensen_shannon": Divergence(
        lambda r: r * jnp.log(r) - (r + 1) * jnp.log((r + 1) / 2), lambda r: r / (r + 1)
    ),
    "hellinger": Divergence(lambda r: 1 - jnp.sqrt(r), lambda r: jnp.sqrt(r) / 4),
    "forward_kl": Divergence(lambda r: r * jnp.log(r), lambda r: r),
    "jeffreys": Divergence(lambda r: (r - 1) * jnp.log(r), lambda r: r + 1),
    "neyman": Divergence(lambda r: (1 - r) ** 2 / r, lambda r: 2 / r),
    "pearson": Divergence(lambda r: (r - 1) ** 2, lambda r: 2 * r**2),
}
ALIASES = {  # the short names of published configurations
    "rkl": "reverse_kl",
    "sf": "softened_rkl",
    "js": "jensen_shannon",
    "sh": "hellinger",
    "kl": "forward_kl",
    "jf": "jeffreys",
}


def divergence(name: str) -> Divergence:
    """The divergence of a name in ``DIVERGENCES`` or ``ALIASES``. Raises ``ValueError`` for any other."""
    checks.require_one_of("divergence", name, (*DIVERGENCES, *ALIASES))
    return DIVERGENCES[ALIASES.get(name, name)]


def from_function(f: RatioFn) -> Divergence:
    """The divergence of any convex f, a twice differentiable function of one number: h by ``grad(grad(f))``.

    h is computed in float32 or better and never below 0, where rounding alone could take it. In float32 the
    cancellation inside f'' leaves a relative error below 1e-4 for r in [0.1, 20], the interval that
    ``density_ratio`` keeps by default, and more outside. A term ``c (r - 1)`` in f changes nothing.

    Raises:
      ValueError: if f'' is negative or not finite for some r in [0.1, 20].
    """
    second = jax.grad(jax.grad(lambda r: jnp.asarray(f(r)).reshape(())))

    def h(r: Float[Array, "*b"]) -> Float[Array, "*b"]:
        ratio = jnp.asarray(r, jnp.promote_types(jnp.float32, jnp.result_type(r)))
        curvature = jax.vmap(second)(ratio.reshape(-1)).reshape(ratio.shape)
        return jnp.maximum(curvature * ratio**2, 0.0)

    with jax.ensure_compile_time_eval():
        curvature = np.asarray(jax.vmap(second)(jnp.geomspace(0.1, 20.0, 33)))
    convex = bool(np.isfinite(curvature).all() and (curvature >= -1e-4 * np.abs(curvature).max()).all())
    checks.require(convex, "f: f'' on [0.1, 20]", float(curvature.min()), "a convex function, f'' >= 0")
    return Divergence(f, h)
