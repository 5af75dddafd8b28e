"""Summaries of returns: interquartile mean and bootstrap intervals (Agarwal et al. 2021).

Legend: `S` seeds, `E` episodes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

NUM_RESAMPLES = 2000
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half: the lowest and highest quarter of the values (rounded down in number) are left out."""
    return float(stats.trim_mean(np.asarray(values, np.float64), 0.25, axis=None))


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float],
    strata: list[np.ndarray],
    *,
    confidence: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic, resampling within each stratum with replacement (stratified bootstrap).

    Args:
        statistic: of the resampled strata, concatenated along the first axis.
        strata: arrays resampled along their first axis: one per environment of a suite, or a single one.
        confidence: probability the interval aims at.
        num_resamples: draws.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    draws = [
        statistic(np.concatenate([each[generator.integers(0, len(each), len(each))] for each in strata]))
        for _ in range(num_resamples)
    ]
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def nested_interval(values: np.ndarray, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of `[S, E]`: seeds are resampled, and episodes within each seed drawn."""
    generator = np.random.default_rng(seed)
    num_seeds, num_episodes = values.shape
    seeds = generator.integers(0, num_seeds, (num_resamples, num_seeds))
    # The mean of resampled episodes by how often each was drawn.
    counts = generator.multinomial(num_episodes, np.full(num_episodes, 1 / num_episodes), (num_resamples, num_seeds))
    draws = (values[seeds] * counts).sum(-1).mean(-1) / num_episodes
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def summarize_returns(returns: np.ndarray) -> dict[str, Any]:
    """The summary of one evaluation as it stands in evaluation.json.

    `mean`, `std`, `min`, `max` and `quantiles` are over all episodes of all seeds. `iqm` is the interquartile mean of
    the seeds' mean returns and its 95 % interval resamples seeds; with one seed, both are over its episodes.

    Args:
        returns: `[S, E]`; rows of failed seeds left out before.
    """
    returns = np.asarray(returns, np.float64)
    per_seed = returns.mean(axis=1)
    units = per_seed if len(per_seed) > 1 else returns[0]
    low, high = bootstrap_interval(interquartile_mean, [units])
    return {
        "mean": float(returns.mean()),
        "std": float(returns.std()),
        "iqm": interquartile_mean(units),
        "iqm_low": low,
        "iqm_high": high,
        "min": float(returns.min()),
        "max": float(returns.max()),
        "quantiles": {str(q): float(np.quantile(returns, q)) for q in QUANTILES},
        "per_seed": [float(each) for each in per_seed],
    }
