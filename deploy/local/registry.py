"""A schema registry on this machine without Docker or root: for tests, and to try Gavotte with one.

Needs `java` (17 or newer) and `mvn`, which fetches Apicurio once into `$XDG_CACHE_HOME/gavotte/registry-VERSION` (110 MB).
It speaks the REST API of Confluent's registry and keeps all in memory: what it knew is gone when it ends.

    python deploy/local/registry.py            one registry in the foreground; prints the settings that use it

Only the standard library is used, so that this runs outside of any environment.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

if not __package__:  # run as a program: this folder is on the path, and its parents are not
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.local.serving import (
    RESOLVE_SECONDS,
    Server,
    fetched,
    foreground,
    free_port,
    if_free,
    java,
    maven,
    program,
    run,
)

VERSION: Final = "3.0.9"
"""The last release that runs on Java 17."""
ARTIFACT: Final = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
RUNNER: Final = f"apicurio-registry-app-{VERSION}-runner.jar"
API: Final = "/apis/ccompat/v7"
USUAL_PORT: Final = 8081


class Registry(Server):
    """One registry. The folder takes its log and stays the caller's; the port is kept over a restart."""

    name = "registry"
    start_seconds = 120.0
    stop_seconds = 15.0
    look_seconds = 0.1

    def __init__(self, folder: Path, *, heap_mib: int = 384, port: int | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.port = port or free_port()
        self._heap_mib = heap_mib

    @property
    def log(self) -> Path:
        return self.folder / "registry.log"

    @property
    def url(self) -> str:
        """The base of its API."""
        return f"http://127.0.0.1:{self.port}{API}"

    def environment(self) -> dict[str, str]:
        """The GAVOTTE_* variables with which Gavotte uses this registry."""
        return {"GAVOTTE_REGISTRY__URL": self.url}

    def start(self) -> None:
        """Start, and return when the registry answers."""
        jar = unpacked() / RUNNER
        self.folder.mkdir(parents=True, exist_ok=True)
        served = ["-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={self.port}"]
        kept = ["-Dapicurio.storage.kind=sql", "-Dapicurio.storage.sql.kind=h2"]
        self._launch([*java(self._heap_mib), *served, *kept, "-jar", str(jar)], cwd=self.folder)
        self._wait_until_ready()

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", f"{API}/subjects")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


# -- its program ---------------------------------------------------------------------------------------------------------


def unpacked() -> Path:
    """The folder of the registry's jars; Maven fetches them if it is not there yet, once for all processes."""
    program("java")

    def fetch(folder: Path) -> None:
        maven("dependency:get", f"-Dartifact={ARTIFACT}", "-Dtransitive=false")
        maven("dependency:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={folder}")
        archive = next(folder.glob("*.tar.gz"))
        run("tar", "-xzf", str(archive), "-C", str(folder), timeout_seconds=RESOLVE_SECONDS)
        archive.unlink()

    return fetched(f"registry-{VERSION}", fetch)


# -- in the foreground -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one registry until SIGINT or SIGTERM, and print the settings that use it."""
    parser = argparse.ArgumentParser(description="Run a schema registry for Gavotte in the foreground.")
    parser.add_argument("--port", type=int, help=f"where it listens on 127.0.0.1 (default: {USUAL_PORT} if free)")
    asked = parser.parse_args(arguments)

    def start(stack: contextlib.ExitStack) -> Registry:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gavotte-registry-")))
        return stack.enter_context(Registry(folder, port=asked.port or if_free(USUAL_PORT)))

    return foreground("registry", start, lambda registry: f"Apicurio {VERSION} on {registry.url}")


if __name__ == "__main__":
    sys.exit(main())
