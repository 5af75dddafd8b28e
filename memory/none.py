"""No memory: the feed-forward baseline with the same contract.

Legend: T steps, *batch any batch axes, d_in width of the input, D d_model.
"""

from typing import Annotated, ClassVar

from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from .core import Dense, check_sequence, check_step
from .errors import check_fields
from .registry import register


@register("none")
class NoMemory(nn.Module):
    """A dense layer in the place of a memory: y[t] = W x[t] + b, whatever came before. Carry: `()`.

    Raises:
        ValueError: for inputs that do not fit, before compilation.
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64

    ssm_parameters: ClassVar[tuple[str, ...]] = ()
    default_activation: ClassVar[str] = "gelu"

    def __post_init__(self):
        check_fields(self)
        super().__post_init__()

    def setup(self):
        self.dense = Dense(self.d_model)

    def initial_carry(self, batch_shape: tuple[int, ...]) -> tuple[()]:
        """The empty carry `()`."""
        return ()

    def __call__(
        self, carry: tuple[()], x: Float[Array, "T *batch d_in"], reset: Bool[Array, "T *batch"]
    ) -> tuple[tuple[()], Float[Array, "T *batch D"]]:
        """The whole sequence, every step by itself."""
        check_sequence(self, carry, x, reset)
        return (), self.dense(x)

    def step(
        self, carry: tuple[()], x: Float[Array, "*batch d_in"], reset: Bool[Array, "*batch"]
    ) -> tuple[tuple[()], Float[Array, "*batch D"]]:
        """One step."""
        check_step(self, carry, x, reset)
        return (), self.dense(x)
