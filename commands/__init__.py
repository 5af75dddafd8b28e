"""The commands of `hippodrome`, one module each or one for several that are alike; imported when they are called.

A command takes the words after its name and returns the exit code.
"""

# Name -> module and function.
COMMANDS = {
    "train": "train:train",
    "evaluate": "evaluate:evaluate",
    "inspect": "look:inspect",
    "predict": "look:predict",
    "record": "look:record",
    "suite": "suite:suite",
    "sweep": "sweep:sweep",
    "cluster-check": "cluster:check",
    "bench": "bench:bench",
    "list": "lists:list_names",
}
