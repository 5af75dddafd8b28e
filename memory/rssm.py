"""Recurrent state-space model over any memory: what a world model believes, step by step or a window at once.

Legend: `T` steps, `*B` batch axes, `E` embedding width, `A` action width, `D` the memory's d_model, `G` groups and `C`
classes of the discrete latent, `S` stride (steps of a chunk).

Time: `deter[t]` has seen `stoch[<t]` and the actions before step t; `stoch[t]` is what step t's observation adds.
`previous_action[t]` led to the observation of step t. Where `reset[t]` is True, the latent before, the previous action
and the memory's carry are all replaced by their initial values.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float

from .core import Carry, Dense, reset_where
from .latents import straight_through, uniform_mix


@struct.dataclass
class RSSMCarry:
    """The state between two steps.

    Attributes:
        memory: the carry of the memory after its last step.
        stoch: float32 `[*B, G * C]`; the latent of the last step.
    """

    memory: Carry
    stoch: Float[Array, "*B Z"]


@struct.dataclass
class Latents:
    """What the model believes at each step; leading axes `[T, *B]`, or `[*B]` for one step.

    Attributes:
        deter: float32 `[..., D]`, the memory's output.
        stoch: float32 `[..., G * C]`, the sample.
        posterior: log probabilities `[..., G, C]` given the observation.
        prior: the same without it.
    """

    deter: Float[Array, "... D"]
    stoch: Float[Array, "... Z"]
    posterior: Float[Array, "... G C"]
    prior: Float[Array, "... G C"]

    @property
    def features(self) -> Float[Array, "... D+Z"]:
        """deter and stoch, what heads read."""
        return jnp.concatenate([self.deter, self.stoch], axis=-1)


class NormMLP(nn.Module):
    """Dense layers, each followed by RMS normalisation and SiLU.

    Attributes:
        sizes: width of each layer.
    """

    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "... n"]) -> Float[Array, "... m"]:
        """Maps the last axis."""
        for index, size in enumerate(self.sizes):
            x = Dense(size, name=f"dense_{index}")(x)
            x = nn.silu(nn.RMSNorm(epsilon=1e-4, name=f"norm_{index}")(x))
        return x


class RSSM(nn.Module):
    """Discrete latents around a memory (Hafner et al. 2019, 2023; parallel posterior: Samsami et al. 2024, R2I).

    x[t] = [embed(stoch[t-1]), embed(previous_action[t])];  deter = memory(x);  prior(stoch[t] | deter[t])
    posterior(stoch[t] | deter[t], e[t]) ("recurrent") or posterior(stoch[t] | e[t]) ("parallel")

    With the parallel posterior all latents of a window are known before the memory runs, so a window is one call of the
    memory; with the recurrent one it is a scan over steps.

    Attributes:
        memory: a module of the memory contract.
        groups, classes: of the latent.
        hidden: width of the layers around the memory.
        posterior: what the posterior sees.
        posterior_layers, prior_layers: hidden layers of each.
        mix: share of the uniform distribution in both.
    """

    memory: nn.Module
    groups: int = 32
    classes: int = 32
    hidden: int = 256
    posterior: Literal["recurrent", "parallel"] = "recurrent"
    posterior_layers: int = 1
    prior_layers: int = 2
    mix: float = 0.01

    def setup(self):
        self.embed_stoch = NormMLP((self.hidden,))
        self.embed_action = NormMLP((self.hidden,))
        self.posterior_hidden = NormMLP((self.hidden,) * self.posterior_layers)
        self.prior_hidden = NormMLP((self.hidden,) * self.prior_layers)
        self.posterior_logits = Dense(self.groups * self.classes)
        self.prior_logits = Dense(self.groups * self.classes)

    @property
    def stoch_size(self) -> int:
        """G * C."""
        return self.groups * self.classes

    def initial_carry(self, batch_shape: tuple[int, ...]) -> RSSMCarry:
        """Zeros; a stream begins with reset True."""
        return RSSMCarry(self.memory.initial_carry(batch_shape), jnp.zeros((*batch_shape, self.stoch_size)))

    def noise_shape(self, *leading: int) -> tuple[int, ...]:
        """Shape of the noise for these leading axes."""
        return (*leading, self.groups, self.classes)

    def observe(
        self,
        carry: RSSMCarry,
        embedding: Float[Array, "T *B E"],
        previous_action: Float[Array, "T *B A"],
        reset: Bool[Array, "T *B"],
        noise: Float[Array, "T *B G C"] | None,
        *,
        stride: int | None = None,
    ) -> tuple[RSSMCarry, Latents]:
        """A window of observations: the carries after steps S-1, 2S-1, ..., T-1, and the beliefs at each step.

        Gradients run through the whole window. The carries are what imagination starts from and what replay stores.

        Args:
            carry: from before the first step.
            embedding: of each observation.
            previous_action: that led to it; ignored where `reset`.
            reset: True where the observation is the first of an episode.
            noise: Gumbel noise of the posterior's samples; None takes the most likely latent.
            stride: S, a divisor of T; T where None.

        Returns:
            Carries, leaves `[T/S, *B, ...]`, and beliefs `[T, *B, ...]`.

        Raises:
            ValueError: if `stride` does not divide T.
        """
        steps = embedding.shape[0]
        stride = steps if stride is None else stride
        if steps % stride:
            raise ValueError(f"stride={stride} must divide the window of {steps} steps")
        run = self._observe_in_turn if self.posterior == "recurrent" else self._observe_at_once
        carries, deter, stoch, posterior = run(carry, embedding, previous_action, reset, noise, stride)
        return carries, Latents(deter, stoch, posterior, self.prior(deter))

    def step(
        self,
        carry: RSSMCarry,
        embedding: Float[Array, "*B E"],
        previous_action: Float[Array, "*B A"],
        reset: Bool[Array, "*B"],
        noise: Float[Array, "*B G C"] | None,
    ) -> tuple[RSSMCarry, Latents]:
        """One step of the same."""
        memory, deter = self.memory.step(
            carry.memory, self._input(carry.stoch, self._embed_action(previous_action, reset), reset), reset
        )
        posterior = self._posterior(deter, embedding)
        stoch = _flat(straight_through(posterior, noise))
        return RSSMCarry(memory, stoch), Latents(deter, stoch, posterior, self.prior(deter))

    def imagine(
        self, carry: RSSMCarry, action: Float[Array, "*B A"], noise: Float[Array, "*B G C"] | None
    ) -> tuple[RSSMCarry, Float[Array, "*B D"]]:
        """One step without an observation: the next carry, whose `stoch` is drawn from the prior, and deter."""
        running = jnp.zeros(carry.stoch.shape[:-1], bool)
        memory, deter = self.memory.step(
            carry.memory, self._input(carry.stoch, self._embed_action(action, running), running), running
        )
        return RSSMCarry(memory, _flat(straight_through(self.prior(deter), noise))), deter

    def posterior_at(
        self, deter: Float[Array, "... D"], embedding: Float[Array, "... E"], noise: Float[Array, "... G C"] | None
    ) -> Float[Array, "... Z"]:
        """A sample of the posterior where the memory's output is known."""
        return _flat(straight_through(self._posterior(deter, embedding), noise))

    def prior(self, deter: Float[Array, "... D"]) -> Float[Array, "... G C"]:
        """Log probabilities of the latent before the observation is seen."""
        return self._grouped(self.prior_logits(self.prior_hidden(deter)))

    def _observe_at_once(self, carry, embedding, previous_action, reset, noise, stride):
        """All latents first, then the memory over them, chunk by chunk."""
        posterior = self._posterior(None, embedding)
        stoch = _flat(straight_through(posterior, noise))
        before = jnp.concatenate([carry.stoch[None], stoch[:-1]])
        inputs = self._input(before, self._embed_action(previous_action, reset), reset)

        def chunk(module, memory, inputs):
            memory, deter = module.memory(memory, *inputs)
            return memory, (memory, deter)

        _, (carries, deter) = _scan(chunk)(self, carry.memory, _cut((inputs, reset), stride))
        return RSSMCarry(carries, stoch[stride - 1 :: stride]), _join(deter), stoch, posterior

    def _observe_in_turn(self, carry, embedding, previous_action, reset, noise, stride):
        """Step by step: each latent needs the memory's output, that of the next step the latent."""
        if noise is None:
            noise = jnp.zeros((*embedding.shape[:-1], self.groups, self.classes))

        def one(module, carry, inputs):
            embedding, action, reset, noise = inputs
            memory, deter = module.memory.step(carry.memory, module._input(carry.stoch, action, reset), reset)
            posterior = module._posterior(deter, embedding)
            stoch = _flat(straight_through(posterior, noise))
            return RSSMCarry(memory, stoch), (deter, stoch, posterior)

        def chunk(module, carry, inputs):
            carry, found = _scan(one)(module, carry, inputs)
            return carry, (carry, found)

        inputs = embedding, self._embed_action(previous_action, reset), reset, noise
        _, (carries, found) = _scan(chunk)(self, carry, _cut(inputs, stride))
        return carries, *_join(found)

    def _input(self, stoch, action, reset):
        """The memory's input from the latent before, null at a reset, and the embedded action since."""
        stoch = reset_where(reset, jnp.zeros_like(stoch), stoch)
        return jnp.concatenate([self.embed_stoch(stoch), action], axis=-1)

    def _embed_action(self, action, reset):
        """Null at a reset; out of bounds as the bounds are."""
        action = reset_where(reset, jnp.zeros_like(action), action)
        return self.embed_action(action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action))))

    def _posterior(self, deter, embedding):
        seen = embedding if self.posterior == "parallel" else jnp.concatenate([deter, embedding], axis=-1)
        return self._grouped(self.posterior_logits(self.posterior_hidden(seen)))

    def _grouped(self, logits):
        logits = logits.reshape(*logits.shape[:-1], self.groups, self.classes).astype(jnp.float32)
        return uniform_mix(logits, self.mix)


def memory_view(carry: RSSMCarry) -> Float[Array, "*B V"]:
    """The memory's whole carry as one real vector: complex numbers as two, each array over its root mean square."""
    batch_shape = carry.stoch.shape[:-1]
    parts = [jnp.zeros((*batch_shape, 0))]
    for leaf in jax.tree.leaves(carry.memory):
        flat = leaf.reshape(*batch_shape, -1)
        if jnp.iscomplexobj(flat):
            flat = jnp.concatenate([flat.real, flat.imag], axis=-1)
        flat = flat.astype(jnp.float32)
        parts.append(flat * jax.lax.rsqrt((flat**2).mean(-1, keepdims=True) + 1e-4))
    return jnp.concatenate(parts, axis=-1)


def _flat(sample: Float[Array, "... G C"]) -> Float[Array, "... Z"]:
    return sample.reshape(*sample.shape[:-2], -1)


def _scan(body: Any) -> Any:
    # Parameters are the same at every step; `nn.scan` keeps flax's bookkeeping out of the loop.
    return nn.scan(body, variable_broadcast="params", split_rngs={"params": False})


def _cut(tree: Any, stride: int) -> Any:
    """`[T, ...]` to `[T/S, S, ...]`."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, stride, *leaf.shape[1:]), tree)


def _join(tree: Any) -> Any:
    """`[T/S, S, ...]` to `[T, ...]`."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)
