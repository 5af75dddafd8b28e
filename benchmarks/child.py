"""Runs in processes of their own, as the resumable benchmarks start them."""

import dataclasses
import hashlib
import json
import signal
import subprocess
import sys
from typing import Any


def digest_of(config: Any) -> str:
    """Tells configurations apart in the names of run folders; where they are trained changes no result."""
    fields = dataclasses.asdict(config)
    del fields["cluster"]
    return hashlib.sha256(json.dumps(fields, default=str).encode()).hexdigest()[:8]


def run_to_end(words: list[str]) -> None:
    """`hippodrome WORDS`; exits with its status where that is not 0."""
    process = subprocess.Popen([sys.executable, "-m", "hippodrome.launch", *words], stdout=sys.stderr)
    # Ctrl-C reaches the run too, which finishes its update and saves: it must not be killed meanwhile.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = process.wait()
    signal.signal(signal.SIGINT, previous)
    if status:
        sys.exit(status)
