"""The optimiser of a memory agent: clipped Adam with a schedule, and a group of its own for state-space parameters."""

from typing import Any, Literal

import optax
from jaxtyping import Array, Int

from hippodrome.memory import parameter_labels

Schedule = Literal["constant", "linear", "cosine"]


def coefficient_schedule(kind: Schedule, peak: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """A coefficient against optimiser step: a linear warm-up from 0, then constant, or down to 0 at `total_steps`."""
    decay_steps = max(total_steps - warmup_steps, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(peak, decay_steps),
    }[kind]
    if warmup_steps == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), after], [warmup_steps])


def steps_taken(optimizer: Any) -> Int[Array, ""]:
    """How many steps a state of `make_optimizer` has seen."""
    return optax.tree.get_all_with_path(optimizer, "count")[0][1]


def make_optimizer(
    schedule: optax.Schedule,
    *,
    max_grad_norm: float,
    adam_eps: float,
    weight_decay: float,
    ssm_learning_rate_factor: float,
) -> optax.GradientTransformation:
    """Global-norm clipping, then AdamW; parameters labelled "ssm" take a scaled learning rate and no weight decay.

    Args:
        schedule: learning rate against optimiser step.
        max_grad_norm: the gradient of all parameters together is clipped to this norm.
        adam_eps: added to the root of the second moment.
        weight_decay: decoupled, for regular parameters.
        ssm_learning_rate_factor: what multiplies the learning rate of the "ssm" group (Smith et al. 2023, G.2).
    """
    groups = {
        "regular": optax.adamw(schedule, eps=adam_eps, weight_decay=weight_decay),
        "ssm": optax.adam(lambda step: ssm_learning_rate_factor * schedule(step), eps=adam_eps),
    }
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.multi_transform(groups, parameter_labels))
