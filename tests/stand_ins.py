"""Stand-ins for the training state, for tests of what one training step does with it."""

from flax import struct


@struct.dataclass
class Learner:
    """Attributes: `params`; `updates`, int32, done."""

    params: object
    updates: object


@struct.dataclass
class State:
    """The fields of `TrainState` that a step reads; `best` only where it learns from a data set."""

    learner: Learner
    envs: object
    carry: object
    replay: object
    update: object
    best: object = None
