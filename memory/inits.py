"""Initial values of state-space memories: HiPPO and the S5 parameters built on it.

Legend: N d_state (before conjugate symmetry halves it), P states kept, H width, J blocks.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float


def hippo_legs(size: int) -> Float[np.ndarray, "N N"]:
    """HiPPO-LegS transition matrix in float64.

    A[n, k] = -sqrt(2n+1) sqrt(2k+1) for n > k, -(n+1) for n = k, 0 for n < k.
    Source: Gu et al. 2020 (HiPPO), theorem 2.
    """
    index = np.arange(size)
    root = np.sqrt(2.0 * index + 1.0)
    return -(np.tril(np.outer(root, root), -1) + np.diag(index + 1.0))


def hippo_normal_eigen(size: int) -> tuple[Complex[np.ndarray, "N"], Complex[np.ndarray, "N N"]]:
    """Eigenvalues and unitary eigenvectors of the normal part of HiPPO-LegS, in complex128.

    A_legs = A_normal - p p^T with p[n] = sqrt(n + 1/2), and A_normal = -1/2 I + skew-symmetric, so that
    Lambda = -1/2 + i * eigh(-i * skew). Sorted by imaginary part, the first half is one of each conjugate pair.
    Source: Gu et al. 2022 (S4), theorem 1; Smith et al. 2023 (S5), section 4.2 and appendix B.1.
    """
    root = np.sqrt(np.arange(size) + 0.5)
    normal = hippo_legs(size) + np.outer(root, root)
    skew = (normal - normal.T) / 2.0
    imaginary, vectors = np.linalg.eigh(-1j * skew)
    return -0.5 + 1j * imaginary, vectors


def hippo_blocks(d_state: int, blocks: int, conj_sym: bool) -> tuple[np.ndarray, np.ndarray]:
    """Lambda `[P]` and V `[N, P]` of `blocks` equal HiPPO normal matrices on a block diagonal.

    With conjugate symmetry each block keeps the half of its eigenpairs with negative imaginary part: P = N / 2.
    Source: Smith et al. 2023 (S5), section 4.2 and appendix B.1.1.
    """
    size = d_state // blocks
    eigenvalues, vectors = hippo_normal_eigen(size)
    kept = size // 2 if conj_sym else size
    eigenvalues, vectors = eigenvalues[:kept], vectors[:, :kept]
    return np.tile(eigenvalues, blocks), np.kron(np.eye(blocks), vectors)


def perturbed_hippo(d_state: int, blocks: int, perturbation: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lambda `[N]`, V and its inverse `[N, N]` of `blocks` equal perturbed HiPPO-LegS matrices on a block diagonal.

    HiPPO-LegS itself cannot be diagonalised in practice (its eigenvectors are too close to each other), but with a
    Gaussian matrix of `perturbation` times its norm added it can. The noise is the same in every run.
    Source: Yu et al. 2023, "Robustifying state-space models for long sequences via approximate diagonalization"
    (S5-PTD), section 3.
    """
    size = d_state // blocks
    legs = hippo_legs(size)
    noise = np.random.default_rng(0).normal(size=(size, size))
    noise *= perturbation * np.linalg.norm(legs, 2) / np.linalg.norm(noise, 2)
    eigenvalues, vectors = np.linalg.eig(legs + noise)
    # A perturbation may push an eigenvalue over the axis, where the state would grow without end.
    eigenvalues = np.minimum(eigenvalues.real, -1e-4) + 1j * eigenvalues.imag
    one = np.eye(blocks)
    return np.tile(eigenvalues, blocks), np.kron(one, vectors), np.kron(one, np.linalg.inv(vectors))


def log_uniform(key: Array, shape: tuple[int, ...], low: float, high: float) -> Float[Array, "..."]:
    """log dt with dt log-uniform in [low, high]: U(log low, log high)."""
    return jax.random.uniform(key, shape, jnp.float32, math.log(low), math.log(high))


def truncated_normal(key: Array, shape: tuple[int, ...], fan_in: int) -> Float[Array, "..."]:
    """Normal values cut at two standard deviations and rescaled to variance 1 / fan_in (lecun_normal)."""
    # .8796...: standard deviation of the unit normal cut at +-2.
    scale = 1.0 / math.sqrt(fan_in) / 0.87962566103423978
    return scale * jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)


def orthogonal_blocks(key: Array, shape: tuple[int, int]) -> Float[Array, "D kD"]:
    """k orthogonal D x D matrices side by side, one per gate of a recurrent cell."""
    width, columns = shape
    keys = jax.random.split(key, columns // width)
    make = jax.nn.initializers.orthogonal()
    return jnp.concatenate([make(each, (width, width), jnp.float32) for each in keys], axis=1)


def inverse_softplus(value: Float[Array, "..."]) -> Float[Array, "..."]:
    """x with softplus(x) = value."""
    return value + jnp.log(-jnp.expm1(-value))


def dt_bias(
    key: Array, shape: tuple[int, ...], low: float = 0.001, high: float = 0.1, floor: float = 1e-4
) -> Float[Array, "..."]:
    """The bias whose softplus is a step log-uniform in [low, high], at least `floor` (Gu and Dao 2023, section 3.6)."""
    return inverse_softplus(jnp.maximum(jnp.exp(log_uniform(key, shape, low, high)), floor))


def ring(key: Array, size: int, r_min: float, r_max: float, max_phase: float) -> tuple[Array, Array]:
    """(nu, theta) with exp(-nu + i theta) uniform on the ring between the radii, phase in [0, max_phase].

    Source: Orvieto et al. 2023 (LRU), lemma 3.2.
    """
    radius_key, phase_key = jax.random.split(key)
    squared = jax.random.uniform(radius_key, (size,), minval=r_min**2, maxval=r_max**2)
    return -0.5 * jnp.log(squared), jax.random.uniform(phase_key, (size,), maxval=max_phase)
