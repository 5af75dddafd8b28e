"""Writes golden_transformers.npz and golden_memax.npz: other people's memories on random data, in our layout.

    uv run --with "torch==2.5.1" --with "transformers==4.57.1" tests/memory/make_golden.py transformers
    uv run --with "memax==0.1.1" --with equinox tests/memory/make_golden.py memax

PyPI transformers' pure-PyTorch paths of Mamba and Mamba-2 (whole mixers), and PyPI memax's LRU (a whole layer) and its
FART, DeltaNet and Gated DeltaNet (what goes into their recurrences, and the states that come out). None knows resets,
so each sequence is one episode; memax's resets at episode starts are used where it has them.
"""

import sys
from pathlib import Path

import numpy as np

T, B = 12, 2


def mamba_mixers() -> dict[str, np.ndarray]:
    """Inputs, outputs and parameters of MambaMixer and Mamba2Mixer."""
    import torch
    from transformers import Mamba2Config, MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    torch.manual_seed(0)
    arrays = {}
    x = torch.randn(B, T, 8)
    first = MambaMixer(MambaConfig(hidden_size=8, state_size=5, conv_kernel=4, expand=2, time_step_rank=3), layer_idx=0)
    second_config = Mamba2Config(
        hidden_size=8, state_size=5, conv_kernel=4, expand=2, num_heads=4, head_dim=4, n_groups=2, chunk_size=4
    )
    second = Mamba2Mixer(second_config, layer_idx=0)
    for name, mixer, forward in (("mamba", first, first.slow_forward), ("mamba2", second, second.torch_forward)):
        with torch.no_grad():
            for parameter in mixer.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            arrays[f"{name}/x"] = x.numpy().swapaxes(0, 1)
            arrays[f"{name}/y"] = forward(x).numpy().swapaxes(0, 1)
        weights = {key: value.detach().numpy() for key, value in mixer.named_parameters()}
        arrays |= {
            f"{name}/in_proj/kernel": weights["in_proj.weight"].T,
            f"{name}/conv/kernel": weights["conv1d.weight"][:, 0].T,
            f"{name}/conv/bias": weights["conv1d.bias"],
            f"{name}/A_log": weights["A_log"],
            f"{name}/D_skip": weights["D"],
            f"{name}/out_proj/kernel": weights["out_proj.weight"].T,
        }
        if name == "mamba":
            arrays |= {
                "mamba/x_proj/kernel": weights["x_proj.weight"].T,
                "mamba/dt_kernel": weights["dt_proj.weight"].T,
                "mamba/dt_bias": weights["dt_proj.bias"],
            }
        else:
            arrays |= {"mamba2/dt_bias": weights["dt_bias"], "mamba2/normalisation/scale": weights["norm.weight"]}
    return arrays


def memax_cells() -> dict[str, np.ndarray]:
    """LRU with resets, and the recurrences of FART, DeltaNet and Gated DeltaNet."""
    import jax
    import jax.numpy as jnp
    from memax.equinox.semigroups import delta, fart, gdn
    from memax.equinox.semigroups.lru import LRU

    key = jax.random.key(0)
    x = jax.random.normal(key, (T, 6))
    start = jnp.zeros(T, bool).at[0].set(True).at[5].set(True)
    arrays = {"memax/x": x, "memax/start": start}

    lru = LRU(recurrent_size=6, hidden_size=6, key=jax.random.key(1))
    _, y = lru(lru.initialize_carry(), (x, start))
    arrays |= {
        "lru/y": y,
        "lru/nu_log": lru.nu_log,
        "lru/theta_log": lru.theta_log,
        "lru/gamma_log": lru.gamma_log,
        "lru/B_in": jnp.concatenate([lru.B_re.T, lru.B_im.T], axis=1),
        "lru/C_out": jnp.concatenate([lru.C_re.T, lru.C_im.T], axis=0),
        "lru/D": lru.D,
    }

    def unit(value):
        return value / (jnp.linalg.norm(value, axis=-1, keepdims=True) + 1e-6)

    for name, module, cell in (
        ("fart", fart, fart.FART(6, 4, key=jax.random.key(2))),
        ("delta", delta, delta.DeltaNet(6, 4, key=jax.random.key(3))),
        ("gdn", gdn, gdn.GDN(6, 4, key=jax.random.key(4))),
    ):
        k, q, v = module.phi(jax.vmap(cell.K)(x)), module.phi(jax.vmap(cell.Q)(x)), jax.vmap(cell.V)(x)
        if name != "fart":
            k, q = unit(k), unit(q)
            arrays[f"{name}/beta"] = jax.vmap(lambda each, module=module, cell=cell: module.psi(cell.w(each)))(x)[:, 0]
        if name == "gdn":
            arrays["gdn/alpha"] = jax.nn.sigmoid(jax.vmap(cell.alpha)(x))[:, 0]
        arrays |= {f"{name}/k": k, f"{name}/q": q, f"{name}/v": v}
        write = jax.vmap(jnp.outer)(k, v)
        if name == "fart":
            element = (write, k)
        else:
            # memax's layers write v k^T and so take back by the value axis; the papers' k v^T goes into its algebra.
            beta = arrays[f"{name}/beta"][:, None, None]
            alpha = arrays["gdn/alpha"][:, None, None] if name == "gdn" else 1.0
            element = (alpha * (jnp.eye(4) - beta * jax.vmap(jnp.outer)(k, k)), beta * write)
        state = cell.scan(cell.algebra, cell.initialize_carry(), (element, start))[0]
        arrays[f"{name}/state"] = state[0] if name == "fart" else state[1]
    return {name: np.asarray(value) for name, value in arrays.items()}


if __name__ == "__main__":
    (which,) = sys.argv[1:]
    path = Path(__file__).with_name(f"golden_{which}.npz")
    np.savez_compressed(path, **{"transformers": mamba_mixers, "memax": memax_cells}[which]())
    print(path.name, path.stat().st_size)
