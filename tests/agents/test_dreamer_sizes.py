"""The table of sizes in docs/world_models.md against the parameters that the configurations make."""

import re
from pathlib import Path

import jax

from hippodrome.training.config import list_configs, load_config
from hippodrome.training.step import make_experiment

DOCUMENT = Path(__file__).parents[2] / "docs" / "world_models.md"
FLAGS = ["--env.id", "hippodrome/PixelPendulum", "--env.kwargs", "size=64", "--agent.replay-capacity", "1e4"]


def test_the_table_of_sizes_is_what_the_configurations_make():
    table = dict(re.findall(r"^\| (dreamer-\S+) \| ([\d.]+)M \|$", DOCUMENT.read_text(), re.MULTILINE))
    assert set(table) == {name for name in list_configs() if re.fullmatch(r"dreamer-\d+m", name)}
    for name, millions in table.items():
        agent = make_experiment(load_config(name, FLAGS)).agent
        params = jax.eval_shape(lambda agent=agent: agent.init(jax.random.key(0), 1)).params
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        digits = len(millions.partition(".")[2])
        assert f"{count / 1e6:.{digits}f}" == millions, name
