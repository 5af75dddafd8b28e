"""Suites: normalisation and aggregation by hand-computed values, the tables, and runs of a stand-in trainer."""

import json
from pathlib import Path

import numpy as np
import pytest

from hippodrome.training.checkpoint.files import write_json
from hippodrome.training.config import list_suites, load_config, load_suite, save_config
from hippodrome.training.errors import ConfigError, TrainingError, TrainingInterrupted
from hippodrome.training.log.metrics import MetricsWriter
from hippodrome.training.suite import agents as suite_agents
from hippodrome.training.suite.agents import best_epochs
from hippodrome.training.suite.report import environment_rows, result_markdown, summary_rows
from hippodrome.training.suite.run import read_suite, run_suite
from hippodrome.training.suite.scores import agent_scores, aggregate, baseline_rows, check_references, normalise

REFERENCES = {"mine/A": {"random": -10.0, "reference": 30.0}}


def test_returns_are_normalised_by_the_rule_of_their_suite():
    np.testing.assert_allclose(normalise("popgym/AnyEasy", [-1.0, 0.0, 0.5, 1.0], {}), [0.0, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(normalise("popgym-paper/AnyHard", [0.0], {}), [0.5])
    np.testing.assert_allclose(normalise("mine/A", [[-10.0, 0.0], [30.0, 50.0]], REFERENCES), [[0.0, 0.25], [1.0, 1.5]])
    check_references(["popgym/AnyEasy", "mine/A"], REFERENCES)
    with pytest.raises(ConfigError, match="mine/B: no random and reference return"):
        check_references(["mine/B"], REFERENCES)
    with pytest.raises(ConfigError, match=r"reference=1.0 must be above random=1.0"):
        check_references(["mine/C"], {"mine/C": {"random": 1.0, "reference": 1.0}})


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    # Eight runs: 0.0 and 0.1 fall out below, 0.8 and 1.0 above; the mean of 0.2, 0.4, 0.4, 0.6 is 0.4.
    result = aggregate([[0.0, 0.4, 0.8, 0.2], [1.0, 0.1, 0.6, 0.4]])
    assert result["iqm"] == pytest.approx(0.4)
    assert result["mean"] == pytest.approx(np.mean([0.35, 0.525]))
    assert result["median"] == pytest.approx(np.median([0.35, 0.525]))
    assert (result["environments"], result["runs"]) == (2, 8)
    assert result["iqm_low"] < 0.4 < result["iqm_high"]


def test_the_interval_resamples_seeds_within_each_environment():
    # Each environment's seeds agree, so resampling within environments changes nothing, however far apart they are.
    result = aggregate([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5]])
    assert (result["iqm"], result["iqm_low"], result["iqm_high"]) == (0.5, 0.5, 0.5)
    # Two seeds 0 and 1: the mean of a resample is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4.
    result = aggregate([[0.0, 1.0]])
    assert (result["iqm"], result["iqm_low"], result["iqm_high"]) == (0.5, 0.0, 1.0)


def test_one_seed_has_no_interval():
    result = aggregate([[0.2], [0.4]])
    assert result["iqm"] == pytest.approx(0.3)
    assert (result["iqm_low"], result["iqm_high"]) == (None, None)


def test_scores_of_an_agent_are_aggregated_only_when_complete():
    found = {"popgym/X": {"return": [0.0, 1.0], "mmer": [1.0, 1.0], "parameters": 7}, "mine/A": {"return": [10.0]}}
    scores = agent_scores(["popgym/X", "mine/A"], found, REFERENCES)
    assert scores["environments"]["popgym/X"] == {
        "return": {"mean": 0.5, "per_seed": [0.0, 1.0]},
        "score": {"mean": 0.75, "per_seed": [0.5, 1.0]},
        "mmer": {"mean": 1.0, "per_seed": [1.0, 1.0]},
        "mmer_score": {"mean": 1.0, "per_seed": [1.0, 1.0]},
        "parameters": 7,
    }
    assert scores["environments"]["mine/A"]["score"]["per_seed"] == [0.5]
    assert scores["aggregate"]["runs"] == 3
    assert scores["aggregate_mmer"] is None


def test_published_agents_match_environments_by_name_in_any_variant():
    baseline = {"name": "P", "metric": "mmer", "protocol": "p", "source": "s", "returns": {"X": 0.5, "Y": 1.0}}
    rows = baseline_rows(["popgym/X", "popgym-paper/Y"], [baseline, {**baseline, "returns": {"Z": 1.0}}], {})
    assert len(rows) == 1 and rows[0]["name"] == "P" and rows[0]["published"]
    assert rows[0]["environments"]["popgym/X"]["mmer"]["mean"] == 0.5
    assert rows[0]["environments"]["popgym/X"]["return"] is None
    assert rows[0]["aggregate"] is None
    assert rows[0]["aggregate_mmer"]["iqm"] == pytest.approx(0.875)


def test_every_shipped_suite_and_table_is_sound():
    assert set(list_suites()) >= {"popgym-easy", "popgym-medium", "popgym-hard", "popgym-all", "memory", "control"}
    for name, size in (("popgym-easy", 16), ("popgym-medium", 16), ("popgym-hard", 16), ("popgym-all", 48)):
        environments = load_suite(name)["environments"]
        assert len(environments) == len(set(environments)) == size
    everything = {env_id for name in list_suites() for env_id in load_suite(name)["environments"]}
    for name in list_suites():
        assert read_suite(name).environments
    names = {env_id.partition("/")[2] for env_id in everything}
    for baseline in load_suite("baselines")["agents"]:
        assert set(baseline) == {"name", "metric", "protocol", "source", "returns"}
        assert baseline["metric"] in ("mmer", "return")
        assert set(baseline["returns"]) <= names
    for env_id, reference in load_suite("references")["references"].items():
        assert env_id in everything and reference["source"] and reference["reference"] > reference["random"]


def test_a_suite_of_ones_own_is_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("environments: [popgym/RepeatFirstEasy]\nreferences: {mine/A: {random: 0, reference: 1}}")
    assert read_suite(str(path)).name == "mine"
    path.write_text("environments: [popgym/RepeatFirstEazy]")
    with pytest.raises(ConfigError, match="did you mean 'popgym/RepeatFirstEasy'"):
        read_suite(str(path))
    for text, message in (
        ("environments: []", r"environments=\[\] must be a list of ids, at least one"),
        ("environments: popgym/RepeatFirstEasy", "environments='popgym/RepeatFirstEasy' must be a list"),
        ("environmnts: [popgym/RepeatFirstEasy]", "did you mean 'environments'"),
        ("", "'environments' is missing"),
        ("environments: [popgym/RepeatFirstEasy, popgym/RepeatFirstEasy]", "RepeatFirstEasy' is listed twice"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_suite(str(path))
    with pytest.raises(ConfigError, match="did you mean 'popgym-easy'"):
        read_suite("popgym-esy")


def test_the_best_epoch_is_found_per_seed(tmp_path):
    nan = float("nan")
    # (env steps, episodes and returns of two seeds); the first two make one epoch, the third another, the last none.
    points = [
        (8_192, [1, 0], [1.0, nan]),
        (65_536, [3, 2], [0.2, 0.5]),
        (131_072, [4, 1], [0.3, 0.1]),
        (139_264, [1, 1], [0.9, 0.9]),
    ]
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for env_steps, episodes, returns in points:
            row = {"episodes": np.asarray(episodes), "episode_return": np.asarray(returns)}
            writer.write({"env_steps": env_steps, **row})
            writer.write({"env_steps": env_steps, "evaluation_return": 5.0})
    assert best_epochs(tmp_path) == pytest.approx([0.4, 0.5])
    (tmp_path / "short").mkdir()
    with MetricsWriter(tmp_path / "short", tensorboard=False, resume_step=0) as writer:
        writer.write({"env_steps": 8, "episodes": 2, "episode_return": 0.25})
    assert best_epochs(tmp_path / "short") == [0.25]
    with MetricsWriter(tmp_path, tensorboard=False, resume_step=0) as writer:
        writer.write({"env_steps": 8, "episodes": 0, "episode_return": nan})
    assert best_epochs(tmp_path) is None


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A suite of two environments, a small config, and a trainer that only notes its calls."""
    calls = []

    def train(config, *, run_dir=None, resume=None, command=None):
        folder = run_dir or resume
        calls.append((config.env.id, "resume" if resume else "train"))
        folder.mkdir(exist_ok=True)
        if config.env.id in stops:
            raise stops[config.env.id]
        with MetricsWriter(folder, tensorboard=False) as writer:
            writer.write({"env_steps": 8, "episodes": np.ones(2), "episode_return": np.asarray([0.5, 1.0])})
        save_config(config, folder / "config.yaml")
        write_json(folder / "evaluation.json", {"episodes": 4, "return": {"per_seed": [0.0, 1.0]}})

    stops: dict[str, Exception] = {}
    monkeypatch.setattr(suite_agents, "train", train)
    monkeypatch.setattr(suite_agents, "count_parameters", lambda _: 7)
    monkeypatch.setattr("jax.clear_caches", lambda: None)
    (tmp_path / "two.yaml").write_text("environments: [popgym/RepeatFirstEasy, popgym/RepeatPreviousEasy]")
    (tmp_path / "small.yaml").write_text(
        "memory: {kind: gru, d_model: 8, num_layers: 1}\nagent: {encoder_sizes: [8], head_sizes: [8]}\n"
        "num_seeds: 2\nevaluation: {episodes: 4}\n"
    )
    monkeypatch.chdir(tmp_path)
    return calls, stops


def test_a_suite_trains_scores_and_reports_and_keeps_what_is_finished(stand_in, capsys):
    calls, _ = stand_in
    results = run_suite("two.yaml", "small.yaml", command=["hippodrome", "suite"])
    assert [call for _, call in calls] == ["train", "train"]
    assert results["agents"][0]["aggregate"]["iqm"] == pytest.approx(0.75)
    rows = list(environment_rows(results))
    assert rows[0][:5] == ("popgym/RepeatFirstEasy", "gru (small)", "0.500", "0.750", "0.750")
    assert ("popgym/RepeatPreviousEasy", "GRU (POPGym)", "-", "-", "1.000", "-") in rows
    assert next(summary_rows(results))[:2] == ("gru (small)", "0.750 [0.500, 1.000]")
    assert "gru (small)" in capsys.readouterr().out
    folder = Path("runs/two-small-gru")
    assert json.loads((folder / "results.json").read_text())["suite"] == "two"
    assert "| popgym/RepeatFirstEasy | gru (small) | 0.500 |" in (folder / "results.md").read_text()
    run_suite("two.yaml", "small.yaml", as_json=True)
    assert len(calls) == 2, "finished runs are not trained again"
    assert json.loads(capsys.readouterr().out)["agents"][0]["name"] == "gru (small)"


def test_a_stopped_suite_goes_on_where_it_was(stand_in):
    calls, stops = stand_in
    stops["popgym/RepeatPreviousEasy"] = TrainingInterrupted("stopped")
    with pytest.raises(TrainingInterrupted, match="stopped; or run this command again"):
        run_suite("two.yaml", "small.yaml")
    (Path("runs/two-small-gru/popgym-RepeatPreviousEasy/checkpoints/step_000000000001")).mkdir(parents=True)
    stops.clear()
    run_suite("two.yaml", "small.yaml")
    assert [call for _, call in calls] == ["train", "train", "resume"]


def test_a_failed_run_leaves_a_dash_and_the_others_scored(stand_in, capsys):
    _, stops = stand_in
    stops["popgym/RepeatFirstEasy"] = TrainingError("loss is not finite")
    with pytest.raises(TrainingError, match="1 of 2 runs failed: popgym/RepeatFirstEasy"):
        run_suite("two.yaml", "small.yaml")
    text = (Path("runs/two-small-gru/results.md")).read_text()
    assert "| popgym/RepeatFirstEasy | gru (small) | - | - | - | - |" in text
    assert "popgym/RepeatFirstEasy failed: loss is not finite" in text
    assert json.loads(Path("runs/two-small-gru/results.json").read_text())["agents"][0]["aggregate"] is None


def test_a_folder_of_another_configuration_is_refused(stand_in):
    run_suite("two.yaml", "small.yaml", run_dir=Path("here"))
    with pytest.raises(ConfigError, match=r"seed: 3 now, 0 when the folder was begun"):
        run_suite("two.yaml", "small.yaml", overrides=["--seed", "3"], run_dir=Path("here"))
    with pytest.raises(ConfigError, match=r"^env\.num_envs=6 must be divisible"):  # once, not for each environment
        run_suite("two.yaml", "small.yaml", overrides=["--env.num-envs", "6"], run_dir=Path("there"))


def test_other_folders_of_the_suite_are_shown_beside(stand_in):
    run_suite("two.yaml", "small.yaml", run_dir=Path("first"))
    results = run_suite("two.yaml", "small.yaml", run_dir=Path("second"), compare=[Path("first")])
    assert [agent["name"] for agent in results["agents"]] == ["gru (small)", "gru (small) #2"]
    assert len(json.loads(Path("second/results.json").read_text())["agents"]) == 1
    with pytest.raises(ConfigError, match="run the suite there first"):
        run_suite("two.yaml", "small.yaml", compare=[Path("nowhere")])


def test_anybodys_policy_is_scored_without_training(stand_in):
    calls, _ = stand_in
    Path("my_policies.py").write_text(
        "import jax.numpy as jnp\n"
        "class Zero:\n"
        "    def initial_carry(self, num_envs):\n"
        "        return ()\n"
        "    def __call__(self, carry, observation, reward, reset, key=None):\n"
        "        return carry, jnp.zeros(reset.shape, jnp.int32)\n"
        "zero = Zero()\n"
    )
    Path("one.yaml").write_text("environments: [popgym/RepeatFirstEasy]")
    results = run_suite("one.yaml", "my_policies:zero", episodes=4)
    assert calls == []
    agent = results["agents"][0]
    assert agent["name"] == "my_policies:zero" and agent["aggregate"] is not None
    assert agent["environments"]["popgym/RepeatFirstEasy"]["parameters"] is None
    with pytest.raises(ConfigError, match="takes no such options"):
        run_suite("two.yaml", "my_policies:zero", overrides=["--seed", "3"])
    with pytest.raises(ConfigError, match="--import my_policiez"):
        run_suite("two.yaml", "my_policiez:zero")


def test_parameters_are_counted_per_seed():
    one, two = (
        suite_agents.count_parameters(load_config(overrides=["--memory.d-model", "8", "--num-seeds", seeds]))
        for seeds in "12"
    )
    assert one == two > 100


def test_markdown_names_the_command():
    scores = agent_scores(["popgym/X"], {"popgym/X": {"return": [0.0]}}, {})
    agent = {"name": "ours", "protocol": "p", **scores}
    results = {
        "suite": "s",
        "command": "hippodrome suite s",
        "environments": ["popgym/X"],
        "agents": [agent],
        "published": [],
    }
    text = result_markdown(results)
    published = [
        {**agent, "name": name, "source": "there", "aggregate": None, "aggregate_mmer": None, "published": True}
        for name in ("A", "B")
    ]
    assert "- A, B: p (there)" in result_markdown({**results, "published": published}), "said once, not for each"
    assert "    hippodrome suite s" in text
    assert "| popgym/X | published | - | - | - | - |" in text
    assert "| ours | 0.500 | - |" in text
