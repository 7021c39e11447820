"""All servers that this machine can have for Gavotte, in the foreground: Kafka, and what else has a program here.

make kafka          each server prints GAVOTTE_* lines: export them, and Gavotte uses it. Ctrl-C ends all.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

SERVERS: Final = ("kafka", "postgres", "registry")
"""Each is a program beside this one that runs until it is told to end."""


def main() -> int:
    """Start what is there and wait; when one ends or somebody asks, all end."""
    here = Path(__file__).parent
    programs = [here / f"{name}.py" for name in SERVERS if (here / f"{name}.py").exists()]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    running = [subprocess.Popen([sys.executable, str(program)]) for program in programs]
    try:
        while all(process.poll() is None for process in running):
            time.sleep(0.2)
        return next(process.returncode for process in running if process.poll() is not None)
    except KeyboardInterrupt:
        return 0
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
