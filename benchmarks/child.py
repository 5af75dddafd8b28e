"""A run in a process of its own, as the resumable benchmarks start it."""

import signal
import subprocess
import sys


def run_to_end(words: list[str]) -> None:
    """`hippodrome WORDS`; exits with its status where that is not 0."""
    process = subprocess.Popen([sys.executable, "-m", "hippodrome.launch", *words], stdout=sys.stderr)
    # Ctrl-C reaches the run too, which finishes its update and saves: it must not be killed meanwhile.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = process.wait()
    signal.signal(signal.SIGINT, previous)
    if status:
        sys.exit(status)
