"""Suites: one agent per environment at one budget, each evaluated, all scored together; resumable after a kill."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hippodrome.training.checkpoint.files import read_json, write_json, write_text
from hippodrome.training.config import config_name, load_config, load_suite, read_yaml
from hippodrome.training.errors import ConfigError, TrainingError, TrainingInterrupted, unknown_name
from hippodrome.training.log.progress import table_console

from .agents import PolicyAgent, TrainedAgent
from .report import result_markdown, result_tables
from .scores import agent_scores, baseline_rows, check_references

RESULTS_FILE = "results.json"


@dataclasses.dataclass(frozen=True)
class Suite:
    """Environments that are scored together.

    Attributes:
        name: of the suite.
        environments: their ids.
        references: random and reference returns to normalise by, for the environments of no POPGym suite.
        baselines: published agents, see `scores.baseline_rows`.
    """

    name: str
    environments: tuple[str, ...]
    references: dict[str, Any]
    baselines: list[dict[str, Any]]


def read_suite(name: str) -> Suite:
    """A shipped suite by name, or a YAML file with `environments` and, for ids of its own, `references`.

    Raises:
        ConfigError: for an unknown name or environment, or one without references.
    """
    from hippodrome.envs import is_known, list_envs

    is_file = name.endswith((".yaml", ".yml"))
    content = read_yaml(Path(name)) if is_file else load_suite(name)
    environments: Any = content.get("environments")
    keys = ["environments", "references"]
    errors = [unknown_name("key", key, keys) for key in content if key not in keys]
    if "environments" not in content:
        errors.append("key 'environments' is missing: a list of ids")
    elif not isinstance(environments, list) or not environments:
        errors.append(f"environments={environments!r} must be a list of ids, at least one")
    else:
        known = list_envs()
        errors += [unknown_name("environments:", each, known) for each in environments if not is_known(each)]
        errors += [f"environments: {each!r} is listed twice" for each in _repeated(environments)]
    if errors:
        raise ConfigError(errors, name)
    references = load_suite("references")["references"] | (content.get("references") or {})
    check_references(environments, references)
    title = Path(name).stem if is_file else name
    return Suite(title, tuple(environments), references, load_suite("baselines")["agents"])


def _repeated(values: list[Any]) -> list[Any]:
    return [each for index, each in enumerate(values) if each in values[:index] and each not in values[index + 1 :]]


def run_suite(
    name: str,
    source: str = "quickstart",
    *,
    overrides: Sequence[str] = (),
    run_dir: Path | None = None,
    compare: Sequence[Path] = (),
    episodes: int | None = None,
    as_json: bool = False,
    description: str = "",
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Train (or go on training) one agent per environment, evaluate, score, print and write `results.json` and `.md`.

    Args:
        name: see `read_suite`.
        source: a configuration as for `load_config`, or `module:policy` to score a policy without training.
        overrides: flags of the configuration.
        run_dir: where; `runs/<suite>-<config>-<memory>` if None. Finished runs in it are kept, others resumed.
        compare: folders of the same suite whose agents are shown beside.
        episodes: episodes of each evaluation; those of the configuration if None.
        as_json: print the results as JSON instead of a table.
        description: head of the `--help` text.
        command: the words of the command, for the record.

    Returns:
        What `results.json` holds.

    Raises:
        ConfigError: for bad input, among it a folder that was begun with another configuration.
        TrainingError: if a run failed; the others are done and scored.
        TrainingInterrupted: after SIGTERM or Ctrl-C; the same command goes on.
    """
    agent = _agent(source, overrides, episodes, description, command)
    suite = read_suite(name)
    others = [_read_results(each, suite) for each in compare]
    folder = run_dir or Path("runs") / f"{suite.name}-{agent.label}"
    agent.prepare(folder, suite.environments)
    found, failed = _collect(suite, agent, folder)
    scores = agent_scores(suite.environments, found, suite.references)
    ours = {"name": agent.name, "protocol": agent.protocol, **scores, "failed": failed}
    results = {
        "suite": suite.name,
        "command": " ".join(command),
        "environments": list(suite.environments),
        "agents": [ours],
        "published": baseline_rows(suite.environments, suite.baselines, suite.references),
    }
    write_json(folder / RESULTS_FILE, results)
    write_text(folder / "results.md", result_markdown(results))
    shown = {**results, "agents": _distinct([ours, *(each for other in others for each in other["agents"])])}
    _show(shown, folder, as_json)
    if failed:
        raise TrainingError(f"{len(failed)} of {len(suite.environments)} runs failed: {', '.join(failed)}")
    return shown


def _agent(
    source: str, overrides: Sequence[str], episodes: int | None, description: str, command: Sequence[str]
) -> TrainedAgent | PolicyAgent:
    """What the suite scores: a policy as it is, where `source` reads `module:policy`, or an agent to train."""
    if ":" in source and not Path(source).exists():
        return PolicyAgent(source, 256 if episodes is None else episodes, overrides)
    if any(word.split("=")[0] == "--env.id" for word in overrides):
        raise ConfigError("--env.id: the suite names its environments; leave it out, or use `hippodrome train`")
    config = load_config(source, overrides, prog="hippodrome suite", description=description)
    if episodes is not None:
        config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, episodes=episodes))
    return TrainedAgent(config, config_name(source), command)


def _collect(suite: Suite, agent: TrainedAgent | PolicyAgent, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The numbers of every environment, and the reasons of those that failed."""
    import jax

    found, failed = {}, {}
    for index, env_id in enumerate(suite.environments, start=1):
        done = " (finished before)" if agent.is_finished(folder / env_id.replace("/", "-")) else ""
        print(f"[{index}/{len(suite.environments)}] {env_id}{done}", file=sys.stderr)
        try:
            # Tables that training prints are no part of the result.
            with contextlib.redirect_stdout(sys.stderr):
                found[env_id] = agent.score(env_id, folder / env_id.replace("/", "-"))
        except TrainingInterrupted as error:
            raise TrainingInterrupted(f"{error}; or run this command again to go on with the whole suite") from error
        except TrainingError as error:
            failed[env_id] = str(error)
            print(f"failed: {error}", file=sys.stderr)
        jax.clear_caches()
    return found, failed


def _read_results(folder: Path, suite: Suite) -> dict[str, Any]:
    results = read_json(folder / RESULTS_FILE)
    if results is None:
        raise ConfigError(f"--compare {folder}: there is no {RESULTS_FILE}; run the suite there first")
    if results["environments"] != list(suite.environments):
        raise ConfigError(
            f"--compare {folder}: it holds suite {results['suite']}, not the environments of {suite.name}"
        )
    return results


def _distinct(agents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The agents, with a number after a name that an earlier one has."""
    names: list[str] = []
    for agent in agents:
        taken = sum(name == agent["name"] for name in names)
        names.append(agent["name"])
        agent["name"] += f" #{taken + 1}" if taken else ""
    return agents


def _show(results: dict[str, Any], folder: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps(results, indent=1, allow_nan=False))
        return
    console = table_console()
    for part in result_tables(results):
        console.print(part, highlight=False)
    console.print(f"results: {folder / RESULTS_FILE}, {folder / 'results.md'}", highlight=False, soft_wrap=True)
