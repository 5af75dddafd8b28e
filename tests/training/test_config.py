"""Configurations: YAML, overrides, kinds, every error at once, and the way back to a file."""

import dataclasses
import logging

import pytest

from hippodrome.memory import list_memories
from hippodrome.training.config import (
    TrainConfig,
    build_env,
    check_config,
    config_differences,
    config_name,
    list_configs,
    load_config,
    load_suite,
    save_config,
)
from hippodrome.training.config.schema import EnvConfig
from hippodrome.training.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def write_file(text: str):
        path = tmp_path / "experiment.yaml"
        path.write_text(text)
        return path

    return write_file


def errors_of(source, overrides=(), check=False) -> list[str]:
    try:
        config = load_config(source, overrides)
        if check:
            check_config(config)
    except ConfigError as error:
        return error.errors
    pytest.fail("no ConfigError was raised")


def test_the_default_is_quickstart_and_every_shipped_config_is_valid():
    assert load_config() == load_config("quickstart")
    for name in list_configs():
        check_config(load_config(name))


def test_what_a_file_leaves_out_has_its_default(write):
    config = load_config(write(""))
    assert config.env == EnvConfig()
    assert (config.memory.kind, config.agent.kind) == ("s5", "ppo")
    assert type(config) is TrainConfig


@pytest.mark.parametrize("text", ["5e-5", "5E-5", "5.e-5", "5.0e-5", "0.00005", ".00005"])
def test_numbers_with_an_exponent_are_numbers(write, text):
    config = load_config(write(f"agent: {{learning_rate: {text}}}\ntotal_env_steps: 1e6\n"))
    assert config.agent.learning_rate == pytest.approx(5e-5)
    assert config.total_env_steps == 1_000_000 and isinstance(config.total_env_steps, int)


def test_words_that_look_like_dates_or_exponents_stay_words(write):
    config = load_config(write("env: {kwargs: {day: 2020-01-01, name: e5, code: 1e}}"))
    assert config.env.kwargs == {"day": "2020-01-01", "name": "e5", "code": "1e"}


def test_overrides_are_typed():
    flags = ["--memory.kind", "gru", "--agent.gamma", "0.97", "--total-env-steps", "1e6", "--memory.d_model=32"]
    flags += ["--env.params", "max_steps_in_episode=100", "noise=2.5", "--log.no-tensorboard", "--max-time", "60"]
    config = load_config(overrides=flags)
    assert (config.memory.kind, config.memory.d_model, config.agent.gamma) == ("gru", 32, 0.97)
    assert config.total_env_steps == 1_000_000
    assert config.env.params == {"max_steps_in_episode": 100, "noise": 2.5}
    assert (config.log.tensorboard, config.max_time) == (False, 60.0)


def test_switching_the_kind_keeps_shared_fields_and_says_what_it_drops(write, caplog):
    path = write("memory: {kind: s5, d_model: 24, num_layers: 3, d_state: 32}")
    with caplog.at_level(logging.WARNING, logger="hippodrome.config"):
        config = load_config(path, ["--memory.kind", "gru"])
    assert (config.memory.kind, config.memory.d_model, config.memory.num_layers) == ("gru", 24, 3)
    assert caplog.messages == ["memory.kind s5 -> gru: dropped d_state=32, which gru does not have"]


def test_a_bare_word_is_a_kind(write):
    assert load_config(write("memory: lstm\nagent: ppo")).memory.kind == "lstm"
    assert load_config(write("memory: lstm"), ["--memory.kind=s5"]).memory.kind == "s5"


def test_all_errors_of_a_file_come_at_once_with_path_value_rule_and_remedy(write):
    path = write(
        """
        memory: {kind: s5, d_modle: 3, d_model: 0, discretization: zoh2}
        agent: {num_minibatches: 3, gama: 3, gamma: high, encoder_sizes: [64, x]}
        total_env_steps: 1000
        env: {id: popgym/RepeatPreviusEasy, num_envs: 64}
        seed: -1
        lok: {a: 3}
        log: 3
        num_seeds: "4"
        max_time: .inf
        """
    )
    errors = errors_of(path)
    expected = [
        "memory.d_modle: key 'd_modle' is unknown; did you mean 'd_model'?",
        "memory.discretization: choice 'zoh2' is unknown; did you mean 'zoh'?",
        "agent.gama: key 'gama' is unknown; did you mean 'gamma'?",
        "agent.gamma='high' must be a number (default: 0.99)",
        "agent.encoder_sizes.1='x' must be an integer",
        "seed=-1 must be greater than or equal to 0 (default: 0)",
        "lok: key 'lok' is unknown; did you mean 'log'?",
        "log=3 must be a mapping of fields",
        "num_seeds='4' must be an integer (default: 1)",
        "max_time=inf must be a finite number (default: null)",
        "d_model=0 must be a positive integer",
        "env.num_envs=64 must be divisible by agent.num_minibatches=3; the next that is: 66",
        "did you mean popgym/RepeatPreviousEasy",
        "total_env_steps=1000 must be at least one rollout",
    ]
    for text in expected:
        assert any(text in error for error in errors), (text, errors)
    assert len(errors) == len(expected)
    with pytest.raises(ConfigError, match=f"experiment.yaml: {len(expected)} errors"):
        load_config(path)


def test_rules_between_fields_are_not_judged_by_values_that_are_wrong(write):
    errors = errors_of(write("env: {num_envs: 6}\nagent: {num_minibatches: none}"))
    assert len(errors) == 1 and errors[0].startswith("agent.num_minibatches='none' must be an integer")


def test_unknown_kinds_are_named_together_with_the_rest(write):
    errors = errors_of(write("memory: {kind: s6, anything: 1}\nagent: {kind: pqo}\nsed: 1"))
    assert "memory.kind 's6' is unknown" in errors[0] and "known: " in errors[0]
    assert errors[1].startswith("agent.kind 'pqo' is unknown; did you mean 'ppo'?")
    assert errors[2].startswith("sed: key 'sed' is unknown; did you mean 'seed'?")
    assert "did you mean 'gru'" in errors_of("quickstart", ["--memory.kind", "grru"])[0]
    assert errors_of("quickstart", ["--memory.kind"]) == ["--memory.kind needs a value, e.g. --memory.kind gru"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory: {kind: s5", "line 1: expected ',' or '}'"),
        ("seed: 1\nseed: 2", "line 2: key 'seed' is given twice"),
        ("- 1", "must be a mapping of fields, not list"),
        ("\x00", "cannot be read"),
    ],
)
def test_files_that_are_no_mapping_are_refused(write, text, message):
    assert message in errors_of(write(text))[0]


def test_errors_of_the_command_line():
    errors = errors_of("quickstart", ["--memory.d_modle", "4", "--agnet.gamma=3", "--zork"])
    assert errors[0] == "option '--memory.d_modle' is unknown; did you mean '--memory.d_model'?"
    assert errors[1] == "option '--agnet.gamma' is unknown; did you mean '--agent.gamma'?"
    assert errors[2] == "option '--zork' is unknown; see --help"
    assert "4.5 must be a whole number" in errors_of("quickstart", ["--memory.d_model", "4.5"])[0]
    assert "invalid choice" in errors_of("quickstart", ["--memory.norm", "past"])[0]
    assert "must be a positive integer" in errors_of("quickstart", ["--memory.d_model", "0"])[0]
    assert errors_of("quickstart", ["--num-envs", "3"])[0] == (
        "option '--num_envs' is unknown; did you mean '--env.num_envs'?"
    )
    assert errors_of("quickstart", ["--seed", "-1"]) == ["seed=-1 must be greater than or equal to 0 (default: 0)"]
    assert "must read NAME=VALUE" in errors_of("quickstart", ["--env.params", "k"])[0]
    assert "quickstart" in errors_of("quickstart", ["quickstart"])[0]


def test_help_names_every_kind(capsys):
    with pytest.raises(SystemExit) as stop:
        load_config(overrides=["--memory.kind", "gru", "--help"], description="Head.")
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert "Head." in text and "--import" in text
    # The list is wrapped to the width of the terminal.
    assert f"--memory.kind{{{','.join(list_memories())}}}" in text.replace(" ", "")
    assert "--memory.d-state" not in text


def test_checks_between_fields(write):
    errors = errors_of(
        "quickstart", ["--env.num-envs", "6", "--agent.num-minibatches", "4", "--total-env-steps", "5"], check=True
    )
    assert errors[0] == "env.num_envs=6 must be divisible by agent.num_minibatches=4; the next that is: 8"
    assert "env.num_envs * agent.num_steps = 6 * " in errors[1]
    errors = errors_of(
        write("num_shards: 3\nnum_devices: 2\nenv: {num_envs: 64}\nagent: {num_minibatches: 1}"), (), True
    )
    assert (
        errors[0]
        == "env.num_envs=64 must be divisible by agent.num_minibatches * num_shards=1 * 3; the next that is: 66"
    )
    assert errors[1] == "num_shards=3 must be divisible by num_devices=2; set num_shards=2"


def test_more_devices_than_there_are_is_refused():
    flags = ["--num-devices", "64", "--num-shards", "64", "--agent.num-minibatches", "1"]
    errors = errors_of("quickstart", flags, check=True)
    assert len(errors) == 1 and "num_devices=64 must be at most" in errors[0] and "XLA_FLAGS" in errors[0]


def test_environment_arguments_and_parameters_are_checked():
    env, params = build_env(EnvConfig(id="popgym/RepeatPreviousEasy", kwargs={"k": 3}))
    assert env.k == 3 and params == env.default_params
    with pytest.raises(ConfigError, match="unknown env id 'popgym/Repeat'"):
        build_env(EnvConfig(id="popgym/Repeat"))
    with pytest.raises(ConfigError, match="cannot be made with"):
        build_env(EnvConfig(id="popgym/RepeatPreviousEasy", kwargs={"lag": 3}))
    with pytest.raises(ConfigError, match=r"parameter 'gravty' is unknown; did you mean 'gravity'\?"):
        build_env(EnvConfig(id="gymnax/CartPole-v1", params={"gravty": 3.0}))
    assert build_env(EnvConfig(id="gymnax/CartPole-v1", params={"gravity": 3.0}))[1].gravity == 3.0


@pytest.mark.parametrize("low", [-float("inf"), -2e38])
def test_a_box_action_without_bounds_is_refused(low, monkeypatch):
    from hippodrome import envs

    class Unbounded:
        default_params = None

        def action_space(self, params):
            return envs.Box(low, 2e38, (2,))

    monkeypatch.setattr(envs, "make", lambda *_, **__: Unbounded())
    with pytest.raises(ConfigError, match=r"Box.-.* must have finite bounds"):
        check_config(load_config())


def test_a_saved_config_is_the_same_config(tmp_path):
    flags = ["--memory.kind", "lstm", "--agent.learning-rate", "5e-5", "--max-time", "10", "--env.kwargs", "k=3"]
    config = load_config(overrides=flags)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path) == load_config(tmp_path / "config.yaml") == config
    assert [each.name for each in tmp_path.iterdir()] == ["config.yaml"]


def test_saving_is_whole_or_not_at_all(tmp_path, monkeypatch):
    save_config(load_config(), tmp_path / "config.yaml")
    before = (tmp_path / "config.yaml").read_text()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        save_config(load_config(overrides=["--seed", "3"]), tmp_path / "config.yaml")
    assert (tmp_path / "config.yaml").read_text() == before
    assert [each.name for each in tmp_path.iterdir()] == ["config.yaml"]


def test_differences_are_told_field_by_field():
    here = load_config()
    there = load_config(overrides=["--memory.d_model", "128", "--seed", "1", "--log.every-updates", "9"])
    assert config_differences(here, there, ignore=("log",)) == [
        f"memory.d_model: {here.memory.d_model} here, 128 in the checkpoint",
        "seed: 0 here, 1 in the checkpoint",
    ]
    assert config_differences(here, here) == []
    other = dataclasses.replace(here, env=dataclasses.replace(here.env, kwargs={"k": 3}))
    assert config_differences(here, other, names=("now", "then")) == [
        "env.kwargs: {} now, absent then",
        "env.kwargs.k: absent now, 3 then",
    ]
    gru = load_config(overrides=["--memory.kind", "gru"])
    assert "memory.kind: s5 here, gru in the checkpoint" in config_differences(here, gru)
    assert not [line for line in config_differences(here, gru) if "d_state" in line]


def test_sources_that_are_no_config_are_refused(tmp_path):
    assert "did you mean 'quickstart'?" in errors_of("quikstart")[0]
    assert "is a folder without config.yaml, so it is no run" in errors_of(tmp_path)[0]
    assert config_name("quickstart") == "quickstart"
    save_config(load_config(), tmp_path / "config.yaml")
    assert config_name(tmp_path) == tmp_path.name
    with pytest.raises(ConfigError, match="did you mean 'popgym-easy'"):
        load_suite("popgym-eazy")


@pytest.mark.parametrize("kind", ["hybrid", "parallel"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_layers_of_a_composition_are_words_or_mappings(kind, count):
    words = ["attention", "{kind: lru, d_state: 8}", "mlp"][:count]
    config = load_config("quickstart", ["--memory.kind", kind, "--memory.layers", *words])
    assert config.memory.layers == ("attention", {"kind": "lru", "d_state": 8}, "mlp")[:count]
    assert load_config("quickstart", ["--memory.kind", kind, "--seed", "3"]).memory.layers
    with pytest.raises(ConfigError, match=r"layers\[0\].*'attentoin' is unknown; did you mean 'attention'"):
        load_config("quickstart", ["--memory.kind", kind, "--memory.layers", "attentoin", *words])


def test_another_environment_drops_what_was_of_the_former(caplog):
    config = load_config("dreamer-1m", ["--env.id", "popgym/RepeatPreviousEasy"])
    assert config.env.kwargs == {} and config.env.id == "popgym/RepeatPreviousEasy"
    assert "dropped env.kwargs={'size': 64}" in caplog.text
    config = load_config("dreamer-1m", ["--env.id=hippodrome/PixelPendulum"])
    assert config.env.kwargs == {"size": 64}
    config = load_config("dreamer-1m", ["--env.id", "gymnax/MemoryChain-bsuite", "--env.params", "memory_length=30"])
    assert config.env.params == {"memory_length": 30} and config.env.kwargs == {}
