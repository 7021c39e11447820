"""A real PostgreSQL server on this machine without Docker or root: for tests, and to try Gavotte on PostgreSQL.

Needs the server's own programs (Debian and Ubuntu: the package `postgresql-15` or newer), from PATH or from
/usr/lib/postgresql. It listens on 127.0.0.1 alone and every login needs its password. Root cannot run it: it is then
run as the user `postgres` or `nobody`, in a folder which that user can reach.

    python deploy/local/postgres.py            one server in the foreground; prints the settings that use it

Only the standard library is used, so that this runs outside of any environment.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

if not __package__:  # run as a program: this folder is on the path, and its parents are not
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.local.serving import Failed, Lacking, Server, foreground, free_port, if_free

HOMES: Final = "/usr/lib/postgresql"
"""Where Debian keeps the programs of each version, out of PATH."""
VERSION_MIN: Final = 15
START_SECONDS: Final = 60.0
USUAL_PORT: Final = 5432
SUPERUSER: Final = "postgres"
OWNER: Final = "gavotte"
DATABASE: Final = "gavotte"
IN_HASTE: Final = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "4GB", "autovacuum_naptime": "5min"}
"""For tests: a killed server loses nothing, a power cut may lose all."""

WATCH: Final = """
read -r _; kill -QUIT "$1"
for _ in 1 2 3 4 5 6 7 8 9; do kill -0 "$1" 2>/dev/null || break; sleep 0.5; done
[ -z "$2" ] || rm -rf "$2"
"""


class Postgres(Server):
    """One server. Port, passwords and data are kept over a restart.

    `folder` takes the data and stays the caller's; without one there is a folder until `stop`. `durable=False` trades
    safety at power loss for speed. `settings` are further lines for postgresql.conf. The database `gavotte` belongs to
    the role `gavotte`, which may make other roles; `postgres` is the superuser.
    """

    name = "server"
    start_seconds = START_SECONDS
    stop_seconds = 30.0
    stop_signal = signal.SIGINT
    look_seconds = 0.02

    def __init__(
        self,
        folder: Path | None = None,
        *,
        durable: bool = True,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._given = folder
        self._folder = folder
        self._settings = {**({} if durable else IN_HASTE), **(settings or {})}
        self._port = port
        self.port = port or 0
        self.passwords: dict[str, str] = {}

    @property
    def folder(self) -> Path:
        """Where data and log lie."""
        if self._folder is None:
            raise Failed("the server has not been started")
        return self._folder

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def url(self) -> str:
        """The database `gavotte`, as its owner."""
        return self.url_of(OWNER)

    def url_of(self, user: str, password: str = "", database: str = DATABASE) -> str:
        """The same as another user, in another database; the passwords of `postgres` and `gavotte` are known here."""
        return f"postgresql://{user}:{password or self.passwords[user]}@127.0.0.1:{self.port}/{database}"

    def environment(self) -> dict[str, str]:
        """The GAVOTTE_* variables with which Gavotte uses this server."""
        return {"GAVOTTE_STORE__BACKEND": "postgres", "GAVOTTE_STORE__URL": self.url}

    # -- its life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start, and return when it answers. The first start makes the folder, the roles and the database."""
        program("postgres")
        first = not self.passwords
        if first:
            self._prepare()
        deadline = time.monotonic() + START_SECONDS
        while not self._try_to_start(deadline):
            if self._port is None and "could not bind" in self._last_words():
                self._write_settings()
        if first:
            self._make_database()

    def close(self) -> None:
        """Stop, and remove the folder where it was not the caller's."""
        self.stop()
        if self._given is None and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder, self.passwords = None, {}

    # -- its own tools ------------------------------------------------------------------------------------------------

    def psql(self, statements: str, *, user: str = SUPERUSER, database: str = DATABASE, password: str = "") -> str:
        """Run statements by the server's own client; what it prints, unaligned. Failed where one fails."""
        command = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", self.url_of(user, password, database)]
        return self._tool(*command, send=statements)

    def _tool(self, name: str, *arguments: str, send: str = "") -> str:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [program(name), *arguments],
            input=send,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
            cwd="/",
            **_other_user(),
        )
        if done.returncode:
            raise Failed(f"{name} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
        return done.stdout

    # -- how it is made -----------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="gavotte-postgres-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        data, kept = self._folder / "data", self._folder / "passwords"
        if os.geteuid() == 0:
            _reachable(self._folder)
            shutil.chown(self._folder, _server_user().pw_uid, _server_user().pw_gid)
        if not kept.exists():
            kept.write_text("\n".join(secrets.token_hex(12) for _ in (SUPERUSER, OWNER)))
            kept.chmod(0o600)
            if os.geteuid() == 0:
                shutil.chown(kept, _server_user().pw_uid, _server_user().pw_gid)
            form = ("-E", "UTF8", "--locale=C.UTF-8", "-A", "scram-sha-256", "--no-sync", "--no-instructions")
            self._tool("initdb", "-D", str(data), "-U", SUPERUSER, f"--pwfile={kept}", *form)
        self.passwords = dict(zip((SUPERUSER, OWNER), kept.read_text().split(), strict=True))
        self._write_settings()

    def _write_settings(self) -> None:
        self.port = self._port or free_port()
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": ""} | self._settings
        lines = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
        (self.folder / "data" / "postgresql.auto.conf").write_text(lines)

    def _make_database(self) -> None:
        known = self.psql("SELECT datname FROM pg_database;", database=SUPERUSER).split()
        if DATABASE not in known:
            role = f"CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{self.passwords[OWNER]}';"
            self.psql(f"{role}\nCREATE DATABASE {DATABASE} OWNER {OWNER};", database=SUPERUSER)

    def _try_to_start(self, deadline: float) -> bool:
        """One attempt. After a crash the dead server's memory may be held for a moment: then there is another."""
        own = "" if self._given else str(self.folder)  # which does not outlive this process either
        self._launch([program("postgres"), "-D", str(self.folder / "data")], WATCH, own, cwd="/", **_other_user())
        try:
            self._wait_until_ready(deadline)
        except Failed:
            words = self._last_words()
            busy = "could not bind" in words and self._port is None
            if time.monotonic() > deadline or not (busy or "still in use" in words or "lock file" in words):
                raise
            time.sleep(0.1)
            return False
        return True

    def _is_ready(self) -> bool:
        """By the file that it keeps: its line 8 says how it stands, line 4 on which port."""
        with contextlib.suppress(OSError):
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"
        return False


def program(name: str) -> str:
    """The path of one of the server's programs; raises Lacking where there is none, or an old one."""
    homes = Path(HOMES).glob("*/bin") if Path(HOMES).is_dir() else ()
    newest = sorted(homes, key=lambda home: -int(re.sub(r"\D.*", "", home.parent.name) or 0))
    for home in [*newest, *map(Path, os.environ.get("PATH", "").split(os.pathsep))]:
        if (home / "postgres").is_file() and (home / name).is_file():
            if version(home / "postgres") < VERSION_MIN:
                continue
            return str(home / name)
    raise Lacking(
        f"there is no PostgreSQL server {VERSION_MIN} or newer on this machine: {name} was not found. "
        "Debian, Ubuntu: apt-get install postgresql-15"
    )


def version(postgres: Path) -> int:
    """The major version of a server's program."""
    said = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    found = re.search(r"\b(\d+)", said)
    return int(found[1]) if found else 0


def _server_user() -> pwd.struct_passwd:
    """Whom root lends the server to."""
    for name in (SUPERUSER, "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Lacking("root cannot run a PostgreSQL server, and there is no user postgres or nobody to run it as")


def _other_user() -> dict[str, Any]:
    """What makes a child run as that user, where this is root."""
    if os.geteuid() != 0:
        return {}
    user = _server_user()
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _reachable(folder: Path) -> None:
    """That another user gets as far as this folder."""
    for parent in folder.resolve().parents:
        if not parent.stat().st_mode & 0o001:
            raise Failed(f"{parent} is closed to the user {_server_user().pw_name}: choose a folder elsewhere")


# -- in the foreground -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one server until SIGINT or SIGTERM, and print the settings that use it."""
    parser = argparse.ArgumentParser(description="Run a PostgreSQL server for Gavotte in the foreground.")
    parser.add_argument("--folder", type=Path, help="where its data is kept (default: nowhere, removed at the end)")
    parser.add_argument("--port", type=int, help=f"where it listens on 127.0.0.1 (default: {USUAL_PORT} if free)")
    asked = parser.parse_args(arguments)

    def start(stack: contextlib.ExitStack) -> Postgres:
        folder = asked.folder.resolve() if asked.folder else None
        return stack.enter_context(Postgres(folder, port=asked.port or if_free(USUAL_PORT)))

    return foreground("postgres", start, lambda server: f"on 127.0.0.1:{server.port}")


if __name__ == "__main__":
    sys.exit(main())
