"""The suite of Lu et al. 2023: DeepMind Control tasks behind random projections, six for training, others held out."""

from hippodrome.envs.adapters.playground_env import make_playground
from hippodrome.envs.mixture import Mixture
from hippodrome.envs.projection import Projection, padded
from hippodrome.envs.splits import check_split, holds_out_tasks

TRAIN = ("BallInCup", "CartpoleSwingup", "FingerSpin", "FingerTurnHard", "PointMass", "ReacherEasy")
# The paper's fifth, point_mass hard, is not in Playground.
HELD_OUT = ("CartpoleBalance", "FingerTurnEasy", "PendulumSwingup", "ReacherHard")
OBSERVATION_SIZE, ACTION_SIZE = 12, 2


def make_control_suite(
    members: tuple[str, ...] | None = None, *, max_steps: int = 250, split: str = "train", projected: bool = True
) -> Projection:
    """The mixture of the training tasks, or of those held out, projected to 12 and 2 numbers as in the paper.

    Args:
        members: which environments of Playground; those of the split where None.
        max_steps: of a trial.
        split: "train", "held-out-tasks", "held-out-projections" or "held-out-both".
        projected: False pads in place of projecting.
    """
    check_split(split, projected=projected)
    names = members if members is not None else HELD_OUT if holds_out_tasks(split) else TRAIN

    mixture = Mixture(padded({name: make_playground(name, max_steps) for name in names}))
    return Projection(
        mixture, observation_size=OBSERVATION_SIZE, action_size=ACTION_SIZE, split=split, identity=not projected
    )
