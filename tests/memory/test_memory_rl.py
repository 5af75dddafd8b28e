"""benchmarks/memory_rl.py: every memory has its matched options, and the table says what the runs found."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory_rl.py"


@pytest.fixture(scope="module")
def memory_rl():
    sys.path.insert(0, str(SCRIPT.parent))  # where its neighbours are
    spec = importlib.util.spec_from_file_location("memory_rl", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_memory_is_matched(memory_rl):
    aim = memory_rl.count_parameters("gru")
    for kind in memory_rl.MATCHED:
        assert abs(memory_rl.count_parameters(kind) / aim - 1) < 0.05, kind


def test_ctrl_c_waits_for_the_run_to_save(tmp_path):
    """As a terminal sends it, to the whole group: the run gets it too."""
    child = tmp_path / "child.py"
    child.write_text(
        "import pathlib, signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(1)\n"
        "    pathlib.Path('saved').touch()\n"
        "    sys.exit(130)\n"
        "signal.signal(signal.SIGINT, save)\n"
        "pathlib.Path('begun').touch()\n"
        "time.sleep(60)\n"
    )
    parent = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import child, memory_rl, pathlib, subprocess\n"
        f"start = subprocess.Popen\n"
        f"child.subprocess.Popen = lambda _, **rest: start([sys.executable, {str(child)!r}], **rest)\n"
        "memory_rl.train('s5', False, pathlib.Path('runs'))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path, start_new_session=True)
    for _ in range(600):
        if (tmp_path / "begun").exists():
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert (tmp_path / "saved").exists()


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
