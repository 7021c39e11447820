"""A schema registry on this machine without Docker or root: for tests, and to try Gavotte with one.

Needs `java` (17 or newer) and `mvn`, which fetches Apicurio once into `$XDG_CACHE_HOME/gavotte/registry-VERSION` (110 MB).
It speaks the REST API of Confluent's registry and keeps all in memory: what it knew is gone when it ends.

    python deploy/local/registry.py            one registry in the foreground; prints the settings that use it

Only the standard library is used, so that this runs outside of any environment.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

if not __package__:  # run as a program: this folder is on the path, and its parents are not
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.local.serving import Failed, Lacking, foreground, free_port, if_free

VERSION: Final = "3.0.9"
"""The last release that runs on Java 17."""
ARTIFACT: Final = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
RUNNER: Final = f"apicurio-registry-app-{VERSION}-runner.jar"
API: Final = "/apis/ccompat/v7"
START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 15.0
RESOLVE_SECONDS: Final = 600.0
USUAL_PORT: Final = 8081


class Registry:
    """One registry. The folder takes its log and stays the caller's; the port is kept over a restart."""

    def __init__(self, folder: Path, *, heap_mib: int = 384, port: int | None = None) -> None:
        self.folder = folder
        self.log = folder / "registry.log"
        self.port = port or free_port()
        self._heap_mib = heap_mib
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The base of its API."""
        return f"http://127.0.0.1:{self.port}{API}"

    def environment(self) -> dict[str, str]:
        """The GAVOTTE_* variables with which Gavotte uses this registry."""
        return {"GAVOTTE_REGISTRY__URL": self.url}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and return when the registry answers."""
        if self._process is not None:
            raise Failed("the registry runs already")
        jar = unpacked() / RUNNER
        self.folder.mkdir(parents=True, exist_ok=True)
        self._launch(jar)
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End in good order. Does nothing when it does not run."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End by SIGKILL. Does nothing when it does not run."""
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    # -- inside -------------------------------------------------------------------------------------------------------

    def _launch(self, jar: Path) -> None:
        # a serial collector and no second compiler: it starts sooner on a small machine
        options = [f"-Xmx{self._heap_mib}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        served = ["-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={self.port}"]
        kept = ["-Dapicurio.storage.kind=sql", "-Dapicurio.storage.sql.kind=h2"]
        command = [_program("java"), *options, *served, *kept, "-jar", str(jar)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # however this process ends, its end of the pipe closes, and the registry does not outlive it
        watch = ["sh", "-c", 'read -r _; kill -9 "$1"', "sh", str(self._process.pid)]
        self._watcher = subprocess.Popen(watch, stdin=subprocess.PIPE, start_new_session=True)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self._process is None or self._process.poll() is not None:
                raise Failed(f"the registry ended while starting: {self._last_words()}")
            if time.monotonic() > deadline:
                raise Failed(f"the registry did not answer within {START_SECONDS:g} s: {self._last_words()}")
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", f"{API}/subjects")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


# -- the program and a port ------------------------------------------------------------------------------------------------


def unpacked() -> Path:
    """The folder of the registry's jars; Maven fetches them if it is not there yet, once for all processes."""
    _program("java")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gavotte"
    folder = cache / f"registry-{VERSION}"
    if folder.exists():
        return folder
    maven = _program("mvn")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "registry.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            fresh = Path(tempfile.mkdtemp(prefix="registry-", dir=cache))
            try:
                _run(maven, "-q", "-B", "dependency:get", f"-Dartifact={ARTIFACT}", "-Dtransitive=false")
                _run(maven, "-q", "-B", "dependency:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={fresh}")
                archive = next(fresh.glob("*.tar.gz"))
                _run("tar", "-xzf", str(archive), "-C", str(fresh))
                archive.unlink()
                fresh.chmod(0o755)
                fresh.rename(folder)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        package = "maven" if name == "mvn" else "openjdk-17-jre-headless"
        raise Lacking(
            f"a schema registry needs {name}, which was not found (Debian, Ubuntu: apt-get install {package})"
        )
    return found


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=RESOLVE_SECONDS, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")


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
