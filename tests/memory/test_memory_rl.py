"""benchmarks/memory_rl.py: every memory has its matched options, and the table says what the runs found."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory_rl.py"


@pytest.fixture(scope="module")
def memory_rl():
    spec = importlib.util.spec_from_file_location("memory_rl", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_memory_is_matched(memory_rl):
    aim = memory_rl.count_parameters("gru")
    for kind in memory_rl.MATCHED:
        assert abs(memory_rl.count_parameters(kind) / aim - 1) < 0.05, kind


def test_the_table_holds_what_the_runs_found(memory_rl, tmp_path):
    def cell(values, mmer):
        return {"return": {"per_seed": values}, "mmer": {"mean": mmer}, "parameters": 85_000}

    for name, values in (("s5-2M", [0.5, 0.6, 0.7]), ("gru-500k", [-0.25])):
        first, second = memory_rl.TASKS
        environments = {first: cell(values, 0.75), second: cell(values, 0.5)}
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps({"agents": [{"environments": environments}]}))
    long, short = memory_rl.table(tmp_path).splitlines()[2:]
    assert long.startswith("| s5 | d_state 192 | 85,000 | 2M | 3 | 0.600 (0.50, 0.60, 0.70) | 0.750 | 0.600 ")
    assert short == "| gru |  | 85,000 | 500k | 1 | -0.250 | 0.750 | -0.250 | 0.500 |"
