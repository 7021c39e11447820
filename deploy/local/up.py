"""All servers that this machine can have for Gavotte, in the foreground: Kafka, and what else has a program here.

make kafka                               each server prints GAVOTTE_* lines: export them, and Gavotte uses it
python deploy/local/up.py kafka postgres    these two alone; Ctrl-C ends all
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

if not __package__:  # run as a program: this folder is on the path, and its parents are not
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.local.serving import LACKING, end_when_told

SERVERS: Final = ("kafka", "postgres", "registry")
"""Each is a program beside this one that runs until it is told to end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Start what is there and wait; when one fails, none is left or somebody asks, all end."""
    parser = argparse.ArgumentParser(description="Run the servers that Gavotte can use, in the foreground.")
    parser.add_argument("servers", nargs="*", help=f"which (default: all that this machine can have): {SERVERS}")
    parser.add_argument("--while-read", action="store_true", help="end when standard input is closed")
    asked = parser.parse_args(arguments)
    names = asked.servers or list(SERVERS)
    if unknown := sorted(set(names) - set(SERVERS)):
        parser.error(f"no such server: {', '.join(unknown)}; there are {', '.join(SERVERS)}")
    end_when_told()
    if asked.while_read:
        threading.Thread(target=_end_with_input, daemon=True).start()
    programs = [Path(__file__).with_name(f"{name}.py") for name in names]
    running = [subprocess.Popen([sys.executable, str(program)], stdin=subprocess.DEVNULL) for program in programs]
    try:
        while True:
            codes = [process.poll() for process in running]
            if code := next((code for code in codes if code not in {None, LACKING}), 0):
                return code
            if None not in codes:
                return LACKING
            time.sleep(0.2)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
