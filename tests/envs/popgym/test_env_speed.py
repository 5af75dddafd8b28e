"""benchmarks/env_speed.py runs and writes what it says, on a scale that says nothing about speed."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "env_speed.py"


@pytest.fixture(scope="module")
def env_speed():
    spec = importlib.util.spec_from_file_location("env_speed", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_and_json(env_speed, tmp_path, capsys):
    scale = ["--num-envs", "2", "--num-steps", "3", "--repeats", "1", "--popgym-envs", "2", "--popgym-seconds", "0.01"]
    outputs = [
        "--popgym-workers",
        "0",
        "--json",
        str(tmp_path / "speed.json"),
        "--markdown",
        str(tmp_path / "speed.md"),
    ]
    env_speed.main(["popgym/MultiarmedBanditEasy", *scale, *outputs])
    record = json.loads((tmp_path / "speed.json").read_text())
    (row,) = record["rows"]
    assert row["env"] == "popgym/MultiarmedBanditEasy" and row["popgym_best"] == "sync"
    assert row["hippodrome"] > 0 and row["popgym_sync"] > 0
    assert record["machine"]["cores"] >= 1 and "benchmarks/env_speed.py" in record["command"]
    page = (tmp_path / "speed.md").read_text()
    assert f"| popgym/MultiarmedBanditEasy | {row['hippodrome']:,} |" in page
    assert record["machine"]["cpu"] in page and record["machine"]["cpu"] in capsys.readouterr().out


def test_unknown_environment_is_refused(env_speed):
    with pytest.raises(SystemExit, match="popgym/BanditEasy"):
        env_speed.main(["popgym/BanditEasy"])
