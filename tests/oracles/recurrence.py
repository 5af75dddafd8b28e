"""The linear recurrence step by step in NumPy."""

import numpy as np


def linear_recurrence_twin(a, b, reset, carry, reset_state=0.0):
    """h[t] = a[t] * (reset_state if reset[t] else h[t-1]) + b[t], element by element, in double precision."""
    b = np.asarray(b)
    kind = np.complex128 if any(np.iscomplexobj(each) for each in (a, b, carry, reset_state)) else np.float64
    num_batch_axes = np.ndim(reset) - 1
    varying = np.ndim(a) == b.ndim
    state = np.broadcast_to(np.asarray(carry, kind), b.shape[1:]).copy()
    loaded = np.broadcast_to(np.asarray(reset_state, kind), b.shape[1:])
    states = np.empty(b.shape, kind)
    for t in range(len(b)):
        for where in np.ndindex(b.shape[1 : 1 + num_batch_axes]):
            if reset[t][where]:
                state[where] = loaded[where]
        state = np.array((a[t] if varying else a) * state + b[t])
        states[t] = state
    return states, states[-1]
