"""The probes against plain Python, and the bench that runs them."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from hippodrome import launch
from hippodrome.training import bench
from hippodrome.training.bench import BenchConfig, run_bench
from hippodrome.training.errors import ConfigError
from hippodrome.training.probes import PROBES

LENGTH = 24


def selective_copy(tokens):
    symbols = [token for token in tokens if token < 8]
    return dict(zip(range(len(tokens) - 4, len(tokens)), symbols, strict=True))


def associative_recall(tokens):
    values = {key: value - 8 for key, value in zip(tokens[:8:2], tokens[1:8:2], strict=True)}
    assert len(values) == 4 and all(token >= 8 for token in tokens[8:-4])
    return {len(tokens) - 4 + i: values[key] for i, key in enumerate(tokens[-4:])}


def induction(tokens):
    first = tokens.index(8)
    assert tokens[-1] == 8 and tokens.count(8) == 2 and first < len(tokens) - 2
    return {len(tokens) - 1: tokens[first + 1]}


def parity(tokens):
    return {t: sum(tokens[: t + 1]) % 2 for t in range(len(tokens))}


def permutations(tokens):
    place, places = 0, {}
    for t, token in enumerate(tokens):
        if token == 1:
            place = {0: 1, 1: 0}.get(place, place)
        elif token == 2:
            place = (place + 1) % 5
        places[t] = place
    return places


def overwriting(tokens):
    memory, answers = {}, {}
    for t, token in enumerate(tokens):
        if token < 32:
            memory[token // 8] = token % 8
        elif token - 32 in memory:
            answers[t] = memory[token - 32]
    return answers


@pytest.mark.parametrize("solve", [selective_copy, associative_recall, induction, parity, permutations, overwriting])
def test_targets_are_those_of_plain_python(solve):
    probe = PROBES[solve.__name__]
    tokens, targets, asked = (np.asarray(each) for each in probe.sample(jax.random.key(0), LENGTH, 32))
    assert tokens.shape == targets.shape == asked.shape == (LENGTH, 32)
    assert tokens.min() >= 0 and tokens.max() < probe.num_tokens
    assert targets.min() >= 0 and targets[asked].max() < probe.num_targets
    for b in range(32):
        answers = solve(tokens[:, b].tolist())
        assert np.flatnonzero(asked[:, b]).tolist() == sorted(answers)
        assert [targets[t, b] for t in sorted(answers)] == [answers[t] for t in sorted(answers)]
    assert len(np.unique(tokens, axis=1).T) > 1
    with pytest.raises(ValueError, match="length=0 must be at least"):
        probe.sample(jax.random.key(0), 0, 1)


TINY = BenchConfig(d_model=8, num_layers=1, length=12, lengths=(12, 14), updates=2, batch=2)


def test_the_bench_fills_its_table_cell_by_cell(tmp_path, monkeypatch, capsys):
    out = tmp_path / "bench.json"
    results = run_bench(["gru"], ["parity"], TINY, out=out)
    assert results["memories"]["gru"]["carry"] == 8 and results["memories"]["gru"]["parameters"] > 0
    (accuracies,) = results["accuracy"]["gru"].values()
    assert len(accuracies) == 2 and all(0 <= each <= 1 for each in accuracies)
    assert json.loads(out.read_text()) == results
    assert "accuracy at 12, 14 steps" in capsys.readouterr().out
    # What is there is kept; only what is new is computed.
    monkeypatch.setattr(bench, "_measure", lambda kind, config: pytest.fail("measured again"))
    monkeypatch.setattr(bench, "_accuracy", lambda kind, probe, config: [0.5, 0.25])
    page = tmp_path / "bench.md"
    again = run_bench(["gru"], ["parity", "induction"], TINY, out=out, markdown=page, as_json=True)
    assert again["accuracy"]["gru"] == {"parity": accuracies, "induction": [0.5, 0.25]}
    head, line, row = (each for each in page.read_text().splitlines() if each.startswith("|"))
    assert head.startswith("| memory | parity | induction | parameters |") and head.count("|") == line.count("|")
    assert row.startswith(f"| gru | {accuracies[0]:.2f} {accuracies[1]:.2f} | 0.50 0.25 |")
    with pytest.raises(ConfigError, match="choose another --out"):
        run_bench(["gru"], ["parity"], BenchConfig(), out=out)


def test_wrong_names_and_lengths_are_refused_before_anything_runs(capsys):
    with pytest.raises(ConfigError) as error:
        run_bench(["gur"], ["party", "selective_copy"], BenchConfig(lengths=(4,)))
    assert [each.partition(";")[0] for each in error.value.errors] == [
        "memory 'gur' is unknown",
        "probe 'party' is unknown",
        "length 4 must be at least 8 for the probe selective_copy",
    ]
    assert launch.main(["bench", "memory", "gur"]) == 2
    assert launch.main(["bench", "memory", "--updates", "0"]) == 2
    assert "did you mean 'gru'" in capsys.readouterr().err


def test_what_bench_cannot_do_is_said_before_it_begins(tmp_path, capsys):
    (tmp_path / "mine.json").write_text("garbage")
    (tmp_path / "empty.json").write_text("{}")
    for name in ("mine.json", "empty.json"):
        assert launch.main(["bench", "memory", "gru", "--probes", "parity", "--out", str(tmp_path / name)]) == 2
        assert "holds no results of this command" in capsys.readouterr().err
    assert (tmp_path / "mine.json").read_text() == "garbage"
    assert launch.main(["bench", "memory", "gru", "--out", str(tmp_path / "none" / "a.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert launch.main(["bench", "memory", "gru", "--markdown", str(tmp_path)]) == 2
    assert "is a folder; name a file" in capsys.readouterr().err
    assert launch.main(["bench", "memory", "gru", "mamba2", "--d-model", "7"]) == 2
    assert "head_dim=32 must divide" in capsys.readouterr().err
    assert launch.main(["bench", "memory", "gru", "--learning-rate", "nan"]) == 2


def test_a_training_that_diverged_is_not_an_accuracy(tmp_path, capsys):
    out = tmp_path / "bench.json"
    run_bench(["gru"], ["parity"], dataclasses.replace(TINY, learning_rate=1e30), out=out)
    assert json.loads(out.read_text())["accuracy"] == {"gru": {"parity": None}}
    assert "diverged" in capsys.readouterr().out


@pytest.mark.slow
def test_a_gated_network_counts_and_a_diagonal_one_does_not():
    """Parity needs a state that turns over: beyond diagonal recurrences with positive or constant decay."""
    results = run_bench(["gru", "mamba"], ["parity"], BenchConfig(updates=400), as_json=True)
    assert min(results["accuracy"]["gru"]["parity"]) > 0.95
    assert max(results["accuracy"]["mamba"]["parity"]) < 0.75
