"""The optimiser of a memory agent: clipped Adam with a schedule, and a group of its own for state-space parameters."""

from typing import Literal

import optax

from hippodrome.memory import parameter_labels

Schedule = Literal["constant", "linear", "cosine"]


def learning_rate_schedule(kind: Schedule, learning_rate: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Learning rate against optimiser step: a linear warm-up from 0, then constant, or down to 0 at `total_steps`."""
    decay_steps = max(total_steps - warmup_steps, 1)
    after = {
        "constant": optax.constant_schedule(learning_rate),
        "linear": optax.linear_schedule(learning_rate, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(learning_rate, decay_steps),
    }[kind]
    if warmup_steps == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup_steps), after], [warmup_steps])


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
