"""Where the `gavotte` program begins: a Ctrl-C while it still loads ends it without a word, as it ends other programs."""

from __future__ import annotations

import signal


def main() -> int:
    """Load the command line and run it; returns the exit code."""
    patient = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else somebody wants it ignored
    if patient:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from console.cli.main import main as run

    if patient:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()
