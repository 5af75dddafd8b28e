"""Scores of agents on a suite: normalised per environment, aggregated over environments and seeds.

Legend: `S` seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hippodrome.training.errors import ConfigError
from hippodrome.training.evaluation.statistics import bootstrap_interval, interquartile_mean

POPGYM_SUITES = ("popgym", "popgym-paper")


def check_references(environments: Sequence[str], references: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ConfigError for every environment whose returns cannot be normalised."""
    errors = []
    for env_id in environments:
        if env_id.partition("/")[0] in POPGYM_SUITES:
            continue
        reference = references.get(env_id)
        if reference is None:
            errors.append(f"{env_id}: no random and reference return to normalise by; add them under `references`")
        elif not reference["reference"] > reference["random"]:
            errors.append(f"{env_id}: reference={reference['reference']} must be above random={reference['random']}")
    if errors:
        raise ConfigError(errors)


def normalise(env_id: str, returns: Any, references: Mapping[str, Mapping[str, Any]]) -> np.ndarray:
    """Scores of returns `[...]`: 0 is the random policy (POPGym: the worst there is), 1 the reference (the best).

    POPGym: `(return + 1) / 2`; elsewhere `(return - random) / (reference - random)`.
    """
    returns = np.asarray(returns, np.float64)
    if env_id.partition("/")[0] in POPGYM_SUITES:
        return (returns + 1) / 2
    low, high = references[env_id]["random"], references[env_id]["reference"]
    return (returns - low) / (high - low)


def aggregate(scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Interquartile mean over all environments and seeds, with its stratified bootstrap interval (95 %).

    Each resample draws seeds with replacement within each environment (Agarwal et al. 2021), so the interval tells
    what other seeds would give on the same environments; it is None where every environment has one seed.

    Args:
        scores: for each environment its seeds' scores, `[S]`; lengths may differ, none is empty.

    Returns:
        `iqm`, `iqm_low`, `iqm_high`, `mean`, `median` (of the environments' means), `environments`, `runs`.
    """
    strata = [np.asarray(each, np.float64) for each in scores]
    everything = np.concatenate(strata)
    low, high = (None, None)
    if any(len(each) > 1 for each in strata):
        low, high = bootstrap_interval(interquartile_mean, strata)
    return {
        "iqm": interquartile_mean(everything),
        "iqm_low": low,
        "iqm_high": high,
        "mean": float(np.mean([each.mean() for each in strata])),
        "median": float(np.median([each.mean() for each in strata])),
        "environments": len(strata),
        "runs": len(everything),
    }


def agent_scores(
    environments: Sequence[str],
    found: Mapping[str, Mapping[str, Any]],
    references: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """What an agent reached: per environment and aggregated, by its final return and by its best epoch (mmer).

    Args:
        environments: of the suite, in order.
        found: for each environment that is done, `return` and `mmer`: lists with one number per seed, or None; and
            `parameters`, how many are trained, if known.
        references: see `normalise`.

    Returns:
        `environments`: for each id `{return, score, mmer, mmer_score}`, each `{mean, per_seed}` or None, and
        `parameters`; `aggregate` and `aggregate_mmer`: see `aggregate`, None unless every environment is known.
    """
    per_env = {env_id: _environment_scores(env_id, found.get(env_id, {}), references) for env_id in environments}
    result: dict[str, Any] = {"environments": per_env}
    for name, column in (("aggregate", "score"), ("aggregate_mmer", "mmer_score")):
        columns = [per_env[env_id][column] for env_id in environments]
        complete = all(column is not None for column in columns)
        result[name] = aggregate([column["per_seed"] for column in columns]) if complete else None
    return result


def baseline_rows(
    environments: Sequence[str], baselines: Sequence[Mapping[str, Any]], references: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The published agents that are known on at least one of the environments, in the form of `agent_scores`.

    Args:
        environments: of the suite.
        baselines: `name`, `metric` (mmer or return), `protocol`, `source` and `returns` by environment name.
        references: see `normalise`.
    """
    rows = []
    for baseline in baselines:
        known = {
            env_id: {baseline["metric"]: [baseline["returns"][name]]}
            for env_id in environments
            if (name := env_id.partition("/")[2]) in baseline["returns"]
        }
        if known:
            about = {key: baseline[key] for key in ("name", "protocol", "source")}
            rows.append({**about, "published": True, **agent_scores(environments, known, references)})
    return rows


def _environment_scores(env_id: str, values: Mapping[str, Any], references: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"return": None, "score": None, "mmer": None, "mmer_score": None}
    row["parameters"] = values.get("parameters")
    for column, score in (("return", "score"), ("mmer", "mmer_score")):
        if values.get(column) is not None:
            row[column] = _summary(values[column])
            row[score] = _summary(normalise(env_id, values[column], references))
    return row


def _summary(values: Any) -> dict[str, Any]:
    array = np.asarray(values, np.float64)
    return {"mean": float(array.mean()), "per_seed": array.tolist()}
