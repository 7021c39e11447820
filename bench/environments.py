"""An environment for each peer, pinned by `bench/requirements/PEER.txt`: made once, kept in the user's cache folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements")


def folder() -> Path:
    """Where the environments are: `$GAVOTTE_BENCH_ENVS`, else below the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("GAVOTTE_BENCH_ENVS") or cache / "gavotte" / "bench")


def versions(peer: str) -> list[str]:
    """What is installed for a peer, `name==version` each; those it is about stand first."""
    lines = (REQUIREMENTS / f"{peer}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def python_of(peer: str) -> str:
    """The interpreter of a peer's environment, made if it is not there; raises CalledProcessError where that fails."""
    home, wanted = folder() / peer, "\n".join(versions(peer))
    python, done = home / "bin" / "python", home / "complete"
    if not done.exists() or done.read_text() != wanted:
        print(f"making an environment for {peer} in {home}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        listed = REQUIREMENTS / f"{peer}.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", listed], check=True)
        done.write_text(wanted)
    return str(python)
