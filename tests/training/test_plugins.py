"""Other people's packages: imported before parsing, kept in the configuration, named when they fail."""

import pytest

from hippodrome.training.config import check_config, load_config, plugins, save_config
from hippodrome.training.errors import ConfigError


def test_imports_are_loaded_first_and_kept_in_the_config(tmp_path, monkeypatch):
    (tmp_path / "my_corridors.py").write_text(
        "from hippodrome.envs import register_env\n"
        "register_env('plugged/Corridor', 'hippodrome.envs.popgym.repeat_previous:RepeatPrevious', num_decks=1, k=2)\n"
    )
    monkeypatch.chdir(tmp_path)
    config = load_config(overrides=["--import", "my_corridors", "--env.id", "plugged/Corridor"])
    check_config(config)
    assert config.import_modules == ("my_corridors",)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path, ["--import=my_corridors"]) == config


def test_imports_that_fail_are_named(tmp_path, monkeypatch):
    (tmp_path / "my_broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=["--import", "my_broken", "my_missing"])
    errors = caught.value.errors
    assert errors[0] == "--import my_broken: ZeroDivisionError: division by zero"
    assert "my_missing: ModuleNotFoundError" in errors[1] and "start from the folder that holds it" in errors[1]


def test_entry_points_are_loaded_and_named_when_they_fail(monkeypatch):
    loaded = []

    class Point:
        value, dist, group = "pkg:thing", None, "hippodrome.envs"

        def __init__(self, name):
            self.name = name

        def load(self):
            loaded.append(self.name)
            if self.name == "bad":
                raise ImportError("no such thing")

    def points(group):
        return [Point("good"), Point("bad")] if group == "hippodrome.envs" else []

    monkeypatch.setattr(plugins.importlib.metadata, "entry_points", points)
    with pytest.raises(ConfigError, match=r"entry point 'bad' of hippodrome.envs \(pkg:thing\): ImportError"):
        plugins.load_plugins()
    assert loaded == ["good", "bad"]
