"""The configuration of a training run: frozen dataclasses with the rule of each field beside it."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class EnvConfig:
    """The environment and how many copies of it are stepped together.

    Attributes:
        id: `suite/Name`; `hippodrome list envs` shows all, and `gymnasium/ID` is whatever `gymnasium.make("ID")` makes.
        num_envs: copies stepped together, in all shards together.
        kwargs: arguments of the environment's constructor, NAME=VALUE.
        params: fields of its `default_params` to replace, NAME=VALUE.
        host_workers: processes that step the copies of an environment on the host (gymnasium); 0: this one.
    """

    id: str = "popgym/RepeatPreviousEasy"
    num_envs: PositiveInt = 64
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    host_workers: NonNegativeInt = 0


@dataclass(frozen=True)
class CheckpointConfig:
    """How often the whole training state is saved.

    Attributes:
        every_updates: updates between two checkpoints; the last update is always saved.
        keep: newest checkpoints kept; the best one is kept besides.
    """

    every_updates: PositiveInt = 50
    keep: PositiveInt = 3


@dataclass(frozen=True)
class EvaluationConfig:
    """How the agent is evaluated: one episode in each evaluation environment, from a fixed key.

    Attributes:
        episodes: episodes, one environment each.
        every_updates: updates between evaluations during training; 0: only at the end.
        seed: seed of the evaluation environments.
    """

    episodes: PositiveInt = 256
    every_updates: NonNegativeInt = 0
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class LogConfig:
    """What is written while training.

    Attributes:
        every_updates: updates between two lines of metrics.jsonl.
        tensorboard: also write TensorBoard events.
    """

    every_updates: PositiveInt = 1
    tensorboard: bool = True


@dataclass(frozen=True)
class CurriculumConfig:
    """Which tasks of meta-episodes are trained on; see `hippodrome.training.curriculum`.

    Attributes:
        kind: all of them, or "space": of a finite set those whose value grows, more as it stops growing.
        num_tasks: size of that set.
        every_updates: updates between two choices.
        threshold: relative change of the mean value below which it is taken to stand still.
        step: tasks to begin with, and to add then.
    """

    kind: Literal["none", "space"] = "none"
    num_tasks: PositiveInt = 128
    every_updates: PositiveInt = 10
    threshold: NonNegativeFloat = 0.1
    step: PositiveInt = 8


@dataclass(frozen=True)
class ClusterConfig:
    """Processes that train one run together, started by Ray; see `hippodrome.training.cluster`.

    Attributes:
        num_workers: processes; 0 trains in this one, without Ray.
        num_actors: processes that step environments in Python (gymnasium's) and act in them, for a learner in this
            process; 0 steps them in this one.
        actor_lag: how many updates older than the learner's the parameters that act may be; 0: the actors wait while it
            learns, and the numbers are those of one process.
        address: HOST:PORT of a Ray cluster to join, or "auto" for the one of this machine; null starts one here, which
            ends with the run and listens on loopback alone.
        cores_per_worker: cores each process computes with.
        gpus_per_worker: GPUs each process owns, all of a node's; `num_devices` must say the same.
        max_failures: how often in a row, without a checkpoint between, the workers are started again after one died.
        start_timeout: seconds to wait for the cluster to have room for the workers, and for each node to answer.
    """

    num_workers: NonNegativeInt = 0
    num_actors: NonNegativeInt = 0
    actor_lag: Annotated[int, Field(ge=0, le=8)] = 0
    address: str | None = None
    cores_per_worker: PositiveInt = 1
    gpus_per_worker: NonNegativeInt = 0
    max_failures: NonNegativeInt = 3
    start_timeout: Annotated[float, Field(gt=0)] = 60.0

    @property
    def num_processes(self) -> int:
        """Workers and actors: those that Ray starts."""
        return self.num_workers + self.num_actors


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. A run folder's config.yaml is one of these, with every field resolved.

    Attributes:
        env: the environment.
        memory: what the agent remembers with; an instance of `hippodrome.memory.memory_config(kind)`.
        agent: how it learns; an instance of `hippodrome.agents.agent_config(kind)`.
        total_env_steps: environment steps to train for, all environments together, each seed.
        seed: seed of the run; the first of them where there are several.
        num_seeds: seeds trained in one program, by vmap.
        num_devices: devices the environments are split over, by shard_map; on a cluster, devices of each worker.
        num_shards: groups of environments that minibatches and statistics are stratified by; a run gives the same
            result on any number of devices that divides it. Where neither file nor command line says it, as many as
            there are devices in all.
        cluster: processes on other cores and machines that train this run together.
        max_time: stop, saved, after this many seconds of training.
        stop_at_return: stop, saved, once the training episode return reaches this.
        init_from: run folder whose final parameters the run begins with.
        dataset: file of recorded episodes to learn from instead of acting, updating as often as the agent's train_ratio
            asks for `total_env_steps`.
        curriculum: which tasks of meta-episodes are trained on.
        import_modules: packages imported first, which register memories, environments or agents.
        checkpoint: how often the whole training state is saved.
        evaluation: how the agent is evaluated.
        log: what is written while training.
    """

    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    memory: Any
    agent: Any
    total_env_steps: PositiveInt = 500_000
    seed: NonNegativeInt = 0
    num_seeds: PositiveInt = 1
    num_devices: PositiveInt = 1
    num_shards: PositiveInt = 1
    cluster: ClusterConfig = dataclasses.field(default_factory=ClusterConfig)
    max_time: Annotated[float, Field(gt=0)] | None = None
    stop_at_return: float | None = None
    init_from: str | None = None
    dataset: str | None = None
    curriculum: CurriculumConfig = dataclasses.field(default_factory=CurriculumConfig)
    import_modules: tuple[str, ...] = ()
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)

    @property
    def total_devices(self) -> int:
        """Devices of all workers together."""
        return self.num_devices * max(1, self.cluster.num_workers)

    @property
    def steps_per_update(self) -> int:
        """Environment steps of one seed in one update."""
        return self.agent.num_steps * self.env.num_envs

    @property
    def num_updates(self) -> int:
        """Updates of the whole run: those that `total_env_steps` has room for."""
        return max(self.total_env_steps // self.steps_per_update, 1)
