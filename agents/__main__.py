"""`python -P -m agents ROLE` (or the file of a further agent): one agent process, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import sys

from agents.logs import start_logging
from agents.settings import load_settings
from contracts.errors import GavotteError


def main(arguments: list[str]) -> int:
    """Run one agent; the settings come from GAVOTTE_* variables and files. Returns the exit code."""
    if len(arguments) not in {1, 2} or arguments[0].startswith("-"):
        sys.stderr.write("usage: python -P -m agents ROLE|FILE [INSTANCE]\n")
        return 2
    try:
        from agents.wiring import run_agent

        settings = load_settings()
        start_logging(settings, agent=arguments[0], pid=str(os.getpid()))
        return asyncio.run(run_agent(settings, arguments[0], instance=arguments[1] if len(arguments) > 1 else ""))
    except GavotteError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"  try: {error.hint}\n" if error.hint else ""))
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
