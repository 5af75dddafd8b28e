"""How well a world model foresees: open-loop predictions of a run's episodes as pictures, numbers and a GIF.

Legend: `T` steps, `N` episodes, `X` steps observed before the model is left alone.
"""

import io
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from rich.table import Table

from hippodrome.agents import Dreamer, ReplayStep
from hippodrome.agents.dreamer.open_loop import Prediction, predict
from hippodrome.envs import VectorEnv, environment_keys
from hippodrome.training.checkpoint.files import write_json
from hippodrome.training.dataset.file import row_template
from hippodrome.training.errors import ConfigError, RunFolderError
from hippodrome.training.evaluation.episodes import max_episode_steps
from hippodrome.training.evaluation.evaluate import CheckpointChoice, check_numbers, open_run
from hippodrome.training.host import running
from hippodrome.training.log.events import EventWriter
from hippodrome.training.replay_size import require_memory, tree_bytes
from hippodrome.training.rollout import record
from hippodrome.training.step import make_environment

from .picture import write_picture
from .prediction_parts import Part, observation_parts

PREDICTION_FILE = "prediction.json"
PICTURE_FILE = "prediction.png"
VIDEO_FILE = "prediction.gif"
_HORIZON = 32
_SHOWN = 4
_SCALE = 4
_BORDER = {"observed": (60, 160, 60), "predicted": (200, 60, 60)}


def predict_run(
    run: str | Path,
    *,
    context: int = 8,
    horizon: int | None = None,
    seed: int = 0,
    step: CheckpointChoice = "last",
    train_seed: Any = "best",
    num_episodes: int = 32,
) -> dict[str, Any]:
    """Plays episodes with a run's policy and asks its world model what it expects after `context` observations.

    Writes prediction.json, prediction.png (reward and continuation by step, with pictures where the environment has
    them), prediction.gif (what was seen, what was expected and the difference, where it has pictures; of a second
    picture prediction-2.gif), and the same picture for TensorBoard. Of a stack of frames, the last one is shown.

    Args:
        run: the folder of a run of Dreamer.
        context: X; fewer than the longest episode has observations.
        horizon: steps predicted after them, at most what the longest episode then has left; where None, 32 of those.
        seed: of the episodes and the latents.
        step: which checkpoint, see `load_policy`.
        train_seed: which of the vmapped seeds, see `load_policy`.
        num_episodes: N.

    Returns:
        What prediction.json holds: by step, the mean absolute error of reward and continuation, the error of every
        part of the observation (see `Part`), and of how many episodes; beside each, the error of always expecting
        the mean.

    Raises:
        ConfigError: for another agent, a number that breaks its rule, more than memory holds, or episodes that all
            end before there is anything to foresee.
        RunFolderError: if the folder cannot be written.
    """
    counts = {} if horizon is None else {"horizon": horizon}
    check_numbers(seed, context=context, num_episodes=num_episodes, **counts)
    config, experiment, params, _, about = open_run(run, train_seed, step)
    agent = experiment.agent
    if not isinstance(agent, Dreamer):
        raise ConfigError(f"a {type(agent).__name__} has no world model; only that of dreamer predicts")
    foresee = partial(predict, agent, context=context)
    play_key, model_key = jax.random.split(jax.random.key(seed))
    horizon = _horizon(context, horizon, max_episode_steps(experiment.envs), config.env.id)
    length = context + horizon
    envs = make_environment(config.env, num_steps=length)
    with running(envs):
        _require_memory(foresee, params, envs, horizon=horizon, length=length, num_episodes=num_episodes)
        steps, there = first_episodes(agent, envs, params, play_key, length=length, num_episodes=num_episodes)
    if not there[context:].any():
        raise ConfigError(
            f"context={context} must be below {there.any(1).sum()}, the observations of the longest of "
            f"{num_episodes} episodes: after it there is nothing to foresee; lower it, or play more episodes"
        )
    expected = jax.device_get(jax.jit(foresee)(params, steps, model_key))
    parts: list[Part] = []
    if expected.observation is not None:
        parts = observation_parts(envs.observation_space, steps.observation, expected.observation)
    result = {
        **about,
        "seed": seed,
        "context": context,
        "horizon": horizon,
        **_errors(steps, there, expected, parts),
    }
    _save(Path(run), result, steps, there, expected, parts, tensorboard=config.log.tensorboard)
    return result


def prediction_table(result: dict[str, Any]) -> Table:
    """The result as a table for a terminal: errors at a few steps, beside those of always expecting the mean."""
    context, last = result["context"], result["context"] + result["horizon"] - 1
    table = Table(
        title=f"{result['env']}, {result['memory']}: update {result['update']}, {context} steps observed",
        caption="reward, continuation and vectors: mean absolute error; images: mean squared error of values in "
        "[0, 1]; discrete: probability not given to what was seen",
    )
    steps = sorted({context - 1, context, min(context + 4, last), min(context + 15, last), last})
    table.add_column("expected")
    table.add_column("by")
    for step in steps:
        table.add_column("seen" if step < context else f"+{step - context + 1}", justify="right")
    table.add_row("episodes there", "", *(str(result["episodes"][step]) for step in steps))
    for name, entry in result.items():
        if isinstance(entry, dict):
            for by in ("model", "mean"):
                values = (entry[by][step] for step in steps)
                table.add_row(name, by, *("-" if value is None else f"{value:.4f}" for value in values))
    return table


def first_episodes(
    agent: Any, envs: VectorEnv, params: Any, key: Key[Array, ""], *, length: int, num_episodes: int
) -> tuple[ReplayStep, np.ndarray]:
    """The first `length` steps of as many episodes, `[T, N, ...]`, and which of them there are, bool `[T, N]`.

    The observation that ended an episode is its last step; what follows it is not there.
    """

    @jax.jit
    def play(params, key):
        env_key, act_key = jax.random.split(key)
        state = envs.reset(environment_keys(env_key, 0, num_episodes))
        carry = agent.initial_carry(num_episodes)
        _, _, stream, _ = record(agent, envs, params, state, carry, act_key, num_steps=length)
        # Steps there are, in order, to the front.
        order = jnp.argsort(~stream.valid, axis=0, stable=True)[:length]
        return jax.tree.map(lambda leaf: leaf[order, jnp.arange(num_episodes)], stream.steps)

    steps = play(params, key)
    ended = np.cumsum(np.asarray(steps.last), axis=0) - np.asarray(steps.last)
    return steps, ended == 0


def _horizon(context: int, horizon: int | None, longest: int, env: str) -> int:
    """The steps to foresee, at most what `context` leaves of an episode of `longest` observations."""
    what = f"an episode of {env} has at most {longest} observations"
    if context >= longest:
        raise ConfigError(f"context={context} must be below {longest}, so that one is left to foresee: {what}")
    left = longest - context
    if horizon is not None and horizon > left:
        raise ConfigError(f"horizon={horizon} must be at most {left} after context={context}: {what}")
    return min(_HORIZON, left) if horizon is None else horizon


def _require_memory(
    foresee: Any, params: Any, envs: VectorEnv, *, horizon: int, length: int, num_episodes: int
) -> None:
    """Raise ConfigError unless this machine holds the steps, and what is expected at each, while they are compared."""
    row = row_template(envs)
    steps = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((length, num_episodes, *leaf.shape), leaf.dtype), row)
    expected = jax.eval_shape(foresee, params, steps, jax.eval_shape(lambda: jax.random.key(0)))
    # Recording takes two steps for each one taken; errors are differences from the model's guess and from the mean.
    parts = {"for the steps": 3 * tree_bytes(steps), "for what is expected of them": 4 * tree_bytes(expected)}
    what = f"horizon={horizon} of num_episodes={num_episodes}"
    require_memory(what, parts, "foresee fewer steps, or fewer episodes")


def _errors(steps: ReplayStep, there: np.ndarray, expected: Prediction, parts: list[Part]) -> dict[str, Any]:
    """Mean errors by step, over the episodes that are still there."""

    def by_step(error: np.ndarray) -> list[float | None]:
        count = there.sum(1)
        total = np.where(there, error, 0.0).sum(1)
        return [float(t / c) if c else None for t, c in zip(total, count, strict=True)]

    def entry(part: Part) -> dict[str, Any]:
        return {"model": by_step(part.error(part.expected)), "mean": by_step(part.error(part.true[there].mean(0)))}

    def number(true: Any, model: Any) -> dict[str, Any]:
        return entry(Part("vector", "", np.asarray(true)[..., None], np.asarray(model)[..., None]))

    goes_on = 1.0 - np.asarray(steps.terminal, float)
    found = {
        "episodes": [int(each) for each in there.sum(1)],
        "reward": number(steps.reward, expected.reward),
        "continuation": number(goes_on, expected.continuation),
    }
    return found | {part.kind + part.where: entry(part) for part in parts}


def _save(
    run: Path, result: dict, steps: ReplayStep, there: np.ndarray, expected: Prediction, parts: list[Part], *,
    tensorboard: bool,
) -> None:  # fmt: skip
    pictures = [
        part._replace(true=_shown_channels(part.true), expected=_shown_channels(part.expected))
        for part in parts
        if part.kind == "image"
    ]
    try:
        write_json(run / PREDICTION_FILE, result)
        png = draw_prediction(result, steps, there, expected, pictures)
        write_picture(run / PICTURE_FILE, png)
        write_videos(run, pictures, there, result["context"])
    except OSError as error:
        raise RunFolderError(f"{run / PREDICTION_FILE} cannot be written: {error.strerror}") from error
    if tensorboard:
        events = EventWriter(run, suffix=".prediction")
        events.image("prediction", png, result["env_steps"])
        events.close()


def _shown_channels(picture: np.ndarray) -> np.ndarray:
    """The last frame of a stack: three channels where their number is a multiple of three, else one."""
    return picture[..., -3:] if picture.shape[-1] % 3 == 0 else picture[..., -1:]


def draw_prediction(
    result: dict[str, Any], steps: ReplayStep, there: np.ndarray, expected: Prediction, pictures: list[Part]
) -> bytes:
    """A PNG: for a few episodes, reward and continuation as they were and as expected, above them the pictures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = min(_SHOWN, there.shape[1])
    rows = 2 + 2 * bool(pictures)
    figure = Figure(figsize=(3.4 * shown, 2.0 * rows), layout="constrained")
    axes = figure.subplots(rows, shown, squeeze=False)
    context = result["context"]
    for each in range(shown):
        kept = there[:, each]
        numbers = np.arange(len(kept))[kept]
        pairs = [
            ("reward", np.asarray(steps.reward)[kept, each], np.asarray(expected.reward)[kept, each]),
            ("goes on", 1.0 - np.asarray(steps.terminal, float)[kept, each], expected.continuation[kept, each]),
        ]
        for row, (name, true, model) in enumerate(pairs):
            plot = axes[rows - 2 + row, each]
            plot.plot(numbers, true, color="black", lw=1.2, label="was")
            plot.plot(numbers, model, color="tab:red", lw=1.2, ls="--", label="expected")
            plot.axvline(context - 0.5, color="tab:gray", lw=0.8, ls=":")
            plot.set_title(name, fontsize=8)
            plot.tick_params(labelsize=7)
        if pictures:
            last = int(numbers[-1])
            for row, (title, frames) in enumerate((("was", pictures[0].true), ("expected", pictures[0].expected))):
                axes[row, each].imshow(np.clip(frames[last, each], 0.0, 1.0).squeeze(), cmap="gray", vmin=0, vmax=1)
                axes[row, each].set_title(f"{title} at step {last}", fontsize=8)
                axes[row, each].axis("off")
    axes[rows - 2, 0].legend(fontsize=7)
    figure.suptitle(f"{result['env']}, {result['memory']}: update {result['update']}; dotted: the last step observed")
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def write_videos(run: Path, pictures: list[Part], there: np.ndarray, context: int) -> None:
    """A GIF for each picture of the observation: prediction.gif, prediction-2.gif, ...; arguments as of `video`."""
    for number, part in enumerate(pictures, start=1):
        path = run / VIDEO_FILE
        if number > 1:
            path = path.with_stem(f"{path.stem}-{number}")
        write_picture(path, video(part.true, part.expected, there, context))


def video(true: np.ndarray, model: np.ndarray, there: np.ndarray, context: int) -> bytes:
    """A GIF of a few episodes: what was seen above what was expected above the difference.

    A green frame means that the model has seen the observation, a red one that it is on its own.

    Args:
        true, model: `[T, N, height, width, channels]`, one channel or three, values in [0, 1].
        there: bool `[T, N]`; after its end an episode stands still, until the longest has ended.
        context: X.
    """
    from PIL import Image

    shown = min(_SHOWN, true.shape[1])
    last = there[:, :shown].sum(0) - 1
    images = []
    for t in range(last.max() + 1):
        now = np.minimum(t, last), np.arange(shown)
        rows = [true[now], model[now], 0.5 + 0.5 * (model[now] - true[now])]
        columns = [np.concatenate(list(row), axis=1) for row in rows]
        picture = np.clip(np.concatenate(columns, axis=0), 0.0, 1.0)
        picture = np.broadcast_to(picture, (*picture.shape[:2], 3))
        large = np.kron(np.round(255 * picture).astype(np.uint8), np.ones((_SCALE, _SCALE, 1), np.uint8))
        colour = _BORDER["observed" if t < context else "predicted"]
        images.append(Image.fromarray(np.pad(large, ((6, 0), (0, 0), (0, 0)))))
        images[-1].paste(colour, (0, 0, large.shape[1], 6))
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=150, loop=0)
    return file.getvalue()
