"""The hyper-parameters of Dreamer."""

from dataclasses import dataclass
from typing import Annotated, Literal

from typing_extensions import Doc

# The fields that decide the shapes of the parameters.
SHAPE_FIELDS = (
    "posterior", "latent_groups", "latent_classes", "hidden", "image_depth", "units", "encoder_layers",
    "decoder_layers", "reward_layers", "actor_layers", "critic_layers", "actor_input", "value_bins",
    "reconstruction_coef", "latent_coef", "barlow_coef", "projection_size",
)  # fmt: skip


@dataclass(frozen=True)
class DreamerConfig:
    """Dreamer: a world model learnt from replay, and an actor and critic learnt in its imagination (DreamerV3)."""

    kind: Literal["dreamer"] = "dreamer"
    num_steps: Annotated[int, Doc("steps of each environment between two phases of learning")] = 16
    train_ratio: Annotated[float, Doc("steps replayed for each environment step")] = 64.0
    batch_size: Annotated[int, Doc("windows of an update")] = 16
    batch_length: Annotated[int, Doc("steps of a window")] = 64
    replay_capacity: Annotated[int, Doc("steps kept, all environments together")] = 200_000
    replay_sampling: Annotated[
        Literal["uniform", "prioritized"], Doc("windows drawn evenly, or by the world model's loss on them")
    ] = "uniform"
    priority_exponent: Annotated[float, Doc("of the priority, where prioritized; 0 is uniform")] = 0.8
    online_queue: Annotated[bool, Doc("every new window is first replayed once, when it is complete")] = True
    carry_every: Annotated[int | None, Doc("steps between stored carries, where windows may start; batch_length")] = (
        None
    )
    posterior: Annotated[Literal["recurrent", "parallel"], Doc("sees deter and embedding, or embedding only")] = (
        "recurrent"
    )
    latent_groups: Annotated[int, Doc("categorical variables of the latent")] = 16
    latent_classes: Annotated[int, Doc("classes of each")] = 16
    hidden: Annotated[int, Doc("width of the layers around the memory")] = 128
    uniform_mix: Annotated[float, Doc("share of the uniform distribution in latents and discrete policies")] = 0.01
    image_depth: Annotated[int, Doc("channels of convolutions are 2 to 4 times this")] = 16
    units: Annotated[int, Doc("width of encoder, decoder, heads, actor and critic")] = 128
    encoder_layers: Annotated[int, Doc("of vectors")] = 2
    decoder_layers: Annotated[int, Doc("of vectors")] = 2
    reward_layers: Annotated[int, Doc("hidden layers of reward and continue heads")] = 1
    actor_layers: Annotated[int, Doc("hidden layers")] = 2
    critic_layers: Annotated[int, Doc("hidden layers")] = 2
    actor_input: Annotated[
        Literal["full", "output", "hidden"],
        Doc("beside the latent: the memory's output and its carry, the output, or the carry"),
    ] = "full"
    value_bins: Annotated[int, Doc("bins of reward and value, an odd number")] = 255
    reward_unit: Annotated[float, Doc("the size of a reward that counts: the grain of bins and of advantages")] = 1.0
    free_nats: Annotated[float, Doc("a KL below this has no gradient")] = 1.0
    dynamics_coef: Annotated[float, Doc("weight of KL(sg(posterior), prior)")] = 1.0
    representation_coef: Annotated[float, Doc("weight of KL(posterior, sg(prior))")] = 0.1
    reward_coef: Annotated[float, Doc("weight of the reward's loss; where rewards are rare, large")] = 1.0
    reconstruction_coef: Annotated[float, Doc("weight of the decoder's loss")] = 1.0
    mask_ratio: Annotated[float, Doc("share of the pictures hidden from the world model while it learns")] = 0.0
    mask_patch: Annotated[int, Doc("pixels of a side of a hidden patch")] = 10
    mask_frames: Annotated[int, Doc("steps that a patch stays hidden or not")] = 4
    latent_coef: Annotated[float, Doc("weight of predicting an averaged encoder's latents")] = 0.0
    bisimulation_coef: Annotated[float, Doc("weight of distances that follow rewards")] = 0.0
    barlow_coef: Annotated[float, Doc("weight of correlating latents with embeddings, unit by unit")] = 0.0
    projection_size: Annotated[int, Doc("width of what latents are projected to for these losses")] = 32
    target_rate: Annotated[float, Doc("of the average of encoder and state-space model")] = 0.05
    imagination_horizon: Annotated[int, Doc("steps imagined")] = 15
    imagination_stride: Annotated[int, Doc("imagine from every n-th step of a window; divides carry_every")] = 1
    discount_horizon: Annotated[float, Doc("the discount is 1 - 1 / this")] = 333.0
    return_lambda: Annotated[float, Doc("of lambda-returns")] = 0.95
    entropy_coef: Annotated[float, Doc("weight of the policy's entropy")] = 3e-4
    return_rate: Annotated[float, Doc("of the average of the returns' percentiles")] = 0.01
    slow_critic_rate: Annotated[float, Doc("of the average of the critic's parameters")] = 0.02
    slow_critic_coef: Annotated[float, Doc("weight of the critic's distance from its average")] = 1.0
    replay_value_coef: Annotated[float, Doc("weight of the critic's loss on replayed steps")] = 0.3
    learning_rate: Annotated[float, Doc("of LaProp, for everything")] = 4e-5
    warmup_updates: Annotated[int, Doc("over which the learning rate rises from 0")] = 1000
    gradient_clip: Annotated[float, Doc("of each array's gradient, relative to the array's norm")] = 0.3

    def __post_init__(self) -> None:
        at_least_one = (
            "num_steps", "batch_size", "replay_capacity", "latent_groups", "hidden", "image_depth",
            "units", "imagination_horizon", "imagination_stride", "mask_patch", "mask_frames",
            "projection_size",
        )  # fmt: skip
        not_negative = (
            "priority_exponent", "encoder_layers", "decoder_layers", "reward_layers", "actor_layers", "critic_layers",
            "free_nats", "reward_coef", "dynamics_coef", "representation_coef", "reconstruction_coef", "entropy_coef",
            "slow_critic_coef", "replay_value_coef", "warmup_updates", "latent_coef", "bisimulation_coef",
            "barlow_coef",
        )  # fmt: skip
        positive = ("train_ratio", "learning_rate", "gradient_clip", "reward_unit")
        errors = [
            f"{name}={getattr(self, name)} must be {rule}"
            for name, rule, holds in (
                *((name, "at least 1", lambda v: v >= 1) for name in at_least_one),
                *((name, "at least 0", lambda v: v >= 0) for name in not_negative),
                *((name, "positive", lambda v: v > 0) for name in positive),
                *((name, "between 0 and 1", lambda v: 0 <= v <= 1) for name in ("uniform_mix", "return_lambda")),
                *(
                    (name, "above 0, at most 1", lambda v: 0 < v <= 1)
                    for name in ("return_rate", "slow_critic_rate", "target_rate")
                ),
                ("mask_ratio", "at least 0, below 1", lambda v: 0 <= v < 1),
                ("latent_classes", "at least 2", lambda v: v >= 2),
                ("batch_length", "at least 2", lambda v: v >= 2),
                ("value_bins", "odd and at least 3", lambda v: v >= 3 and v % 2 == 1),
                ("discount_horizon", "above 1", lambda v: v > 1),
                ("carry_every", "at least 1, or null", lambda v: v is None or v >= 1),
            )
            if not holds(getattr(self, name))
        ]
        if not (self.reconstruction_coef or self.latent_coef or self.barlow_coef):
            errors.append(
                "one of reconstruction_coef, latent_coef and barlow_coef must be above 0, or nothing makes the latents "
                "hold the observation"
            )
        if not errors:
            for part, whole in (
                (("imagination_stride", self.imagination_stride), ("carry_every", self.carry_steps)),
                (("carry_every", self.carry_steps), ("batch_length", self.batch_length)),
            ):
                if whole[1] % part[1]:
                    unsaid = whole[0] == "carry_every" and self.carry_every is None
                    note = " (that of batch_length, as it is not given)" if unsaid else ""
                    errors.append(f"{part[0]}={part[1]} must divide {whole[0]}={whole[1]}{note}")
        if errors:
            raise ValueError("; ".join(errors))

    @property
    def carry_steps(self) -> int:
        """Steps between stored carries."""
        return self.batch_length if self.carry_every is None else self.carry_every

    @property
    def has_target(self) -> bool:
        """Whether a raw branch with averaged parameters is kept (HRSSM)."""
        return self.latent_coef > 0 or self.bisimulation_coef > 0

    @property
    def gamma(self) -> float:
        """The discount."""
        return 1.0 - 1.0 / self.discount_horizon
