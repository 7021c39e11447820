"""Settings: one model, read from flags, GAVOTTE_* variables and two TOML files, that knows the origin of each value.

The order is: flag, variable (`GAVOTTE_WORKER__CONCURRENCY`), the file of --config or GAVOTTE_CONFIG, `gavotte.toml` in
the data folder, a variable of the provider (`ANTHROPIC_API_KEY`), default. docs/settings.md is generated from the descriptions below.
"""

from __future__ import annotations

import functools
import getpass
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

from pydantic import Field, PrivateAttr, SecretStr, ValidationError

from agents.sections import (
    BusSettings,
    LogSettings,
    ModelSettings,
    OperatorSettings,
    RegistrySettings,
    SandboxSettings,
    Section,
    StoreSettings,
    TaskSettings,
    TelemetrySettings,
    WorkerSettings,
)
from contracts.errors import Unavailable, Usage

PREFIX: Final = "GAVOTTE_"
FILE_NAME: Final = "gavotte.toml"
FOLDERS: Final = ("bodies", "git", "work", "releases", "run", "logs")
DEFAULT_ORIGIN: Final = "default"
SHORT_VARIABLES: Final = {PREFIX + "DATA": "data", PREFIX + "MODEL_URL": "model.url"}
"""Variables of ours without the `__` of a section."""
FOREIGN_VARIABLES: Final = {"ANTHROPIC_API_KEY": "model.api_key", "ANTHROPIC_BASE_URL": "model.url"}
"""What others set for all their programs; anything of ours comes first."""
MODEL_KEYS: Final = frozenset(
    {"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"}
    | {f"{PREFIX}MODEL__{name}{end}" for name in ("API_KEY", "FALLBACK_API_KEY") for end in ("", "_FILE")}
)
"""Variables that open a model. Whoever asks none is started without them, and no command of a project sees them."""


_LOGIN: Final = re.compile(r"(://[^/?#:@\s]*):[^/?#@\s]*@")
"""A password inside an address."""
_PASSWORD: Final = re.compile(r"://[^/?#:@\s]*:([^/?#@\s]*)@")


class Settings(Section):
    """Everything that can be set, and the folder it is about."""

    data: Path = Field(description="The data folder. Flag --data, variable GAVOTTE_DATA.")
    tasks: TaskSettings = Field(default_factory=TaskSettings)
    bus: BusSettings = Field(default_factory=BusSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    registry: RegistrySettings = Field(default_factory=RegistrySettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    sandbox: SandboxSettings = Field(default_factory=SandboxSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    operator: OperatorSettings = Field(default_factory=OperatorSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _config: Path | None = PrivateAttr(default=None)

    def origin(self, key: str) -> str:
        """Where the value of `worker.concurrency` and the like came from: a flag, a variable, a file, or `default`."""
        return self._origins.get(key, DEFAULT_ORIGIN)

    def rows(self) -> list[tuple[str, str, str]]:
        """Every setting as (key, value, origin) in the order of this file; secrets are masked."""
        return [(key, _shown(value), self.origin(key)) for key, value in _walk(self)]

    def secrets(self) -> list[str]:
        """The values that no text may show: of settings that hold a secret, and passwords inside their addresses."""
        found = [value.get_secret_value() for _, value in _walk(self) if isinstance(value, SecretStr)]
        return found + [login[1] for text in found if (login := _PASSWORD.search(text))]

    def value(self, key: str) -> Any:
        """The value of `worker.concurrency` and the like."""
        return functools.reduce(getattr, key.split("."), self)

    def environment(self) -> dict[str, str]:
        """The variables that give a child process these same settings, taken with the parent's own environment."""
        found = {PREFIX + "DATA": str(self.data)}
        if self._config is not None:
            found[PREFIX + "CONFIG"] = str(self._config)
        return found

    # -- the data folder

    @property
    def database(self) -> Path:
        return self.data / "gavotte.db"

    @property
    def has_record(self) -> bool:
        """Whether there is anything to open: a server is there without us, a file is made at first use."""
        return self.store.backend != "sqlite" or self.database.exists()

    @property
    def bodies(self) -> Path:
        return self.data / "bodies"

    @property
    def git(self) -> Path:
        return self.data / "git"

    @property
    def work(self) -> Path:
        return self.data / "work"

    @property
    def releases(self) -> Path:
        return self.data / "releases"

    @property
    def run(self) -> Path:
        return self.data / "run"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def registry_ids(self) -> Path:
        """The ids that a schema registry gave to our schemas, for a start while it is down."""
        return self.data / "registry-ids.json"

    @property
    def operators_pub(self) -> Path:
        """The operators' public keys, one a line: what agents verify with."""
        return self.data / "operators.pub"

    @property
    def operator_key(self) -> Path:
        """The operator's private key, outside the data folder."""
        return self.operator.key or _xdg("XDG_CONFIG_HOME", ".config") / "gavotte" / "operator.key"

    @property
    def operator_name(self) -> str:
        return self.operator.name or login_name()

    def make_folders(self) -> Self:
        """Make the data folder (mode 0700) and what belongs inside; raises Unavailable where that cannot be."""
        try:
            if not self.data.exists() or not any(self.data.iterdir()):
                self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
                self.data.chmod(0o700)
            for name in FOLDERS:
                (self.data / name).mkdir(exist_ok=True, mode=0o700)
            os.utime(self.run)  # asks whether it can be written, and changes nothing that counts
        except OSError as error:
            raise Unavailable(
                f"the data folder {self.data} cannot be written: {error.strerror}",
                hint="name another one with --data DIR or GAVOTTE_DATA",
            ) from None
        return self


def load_settings(
    *,
    data: Path | None = None,
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings; raises Usage naming the file or variable, the key and what is wrong with it.

    `data` and `config` are the flags of these names; `flags` are further ones by dotted key (`model.script`).
    """
    variables = os.environ if environ is None else environ
    named = config or (Path(variables[PREFIX + "CONFIG"]) if variables.get(PREFIX + "CONFIG") else None)
    layers: list[tuple[str, dict[str, Any]]] = []  # the weightiest first
    given = {**(flags or {}), **({} if data is None else {"data": data})}
    layers.append(("flag --{}", {key: value for key, value in given.items() if value is not None}))
    layers.append((PREFIX + "{}", _from_variables(variables)))
    if named is not None:
        named = named.expanduser().absolute()
        layers.append((str(named), _from_file(named, required=True)))
    folder = _data_folder(layers, variables)
    inside = _from_file(folder / FILE_NAME, required=False)
    if "data" in inside:
        raise Usage(f"{folder / FILE_NAME}: data cannot be set here", hint="it is this file's own folder")
    layers.append((str(folder / FILE_NAME), inside))
    for name, key in FOREIGN_VARIABLES.items():
        layers.append((name, {key: variables[name]} if variables.get(name) else {}))
    return _merged(layers, folder, named)


def _merged(layers: list[tuple[str, dict[str, Any]]], folder: Path, config: Path | None) -> Settings:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in reversed(layers):
        for key, value in layer.items():
            _put(values, key, value)
            origins[key] = _origin_of(origin, key)
    values["data"] = folder
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise _refusal(error, origins) from None
    settings._origins.update(origins)  # noqa: SLF001  # the model's own private field, filled by its loader
    settings._config = config  # noqa: SLF001  # likewise
    return settings


def _origin_of(origin: str, key: str) -> str:
    if origin.startswith("flag"):
        return origin.format(key.rpartition(".")[2].replace("_", "-"))
    return origin.format(key.upper().replace(".", "__")) if origin == PREFIX + "{}" else origin


def _data_folder(layers: list[tuple[str, dict[str, Any]]], variables: Mapping[str, str]) -> Path:
    for _, layer in layers:
        if layer.get("data"):
            return Path(str(layer["data"])).expanduser().absolute()
    return _xdg("XDG_DATA_HOME", ".local/share", variables) / "gavotte"


def _xdg(variable: str, fallback: str, variables: Mapping[str, str] | None = None) -> Path:
    named = Path((os.environ if variables is None else variables).get(variable, ""))
    return named if named.is_absolute() else Path.home() / fallback


def _from_variables(variables: Mapping[str, str]) -> dict[str, Any]:
    """Variables that name settings: those of SHORT_VARIABLES, and all with `__`; a `_FILE` at the end reads a secret
    from a file.
    """
    found: dict[str, Any] = {key: variables[name] for name, key in SHORT_VARIABLES.items() if variables.get(name)}
    secrets = {key for key, value in _walk_fields(Settings) if SecretStr.__name__ in str(value)}
    for name, value in variables.items():
        if not name.startswith(PREFIX) or "__" not in name or value == "":
            continue
        key = name.removeprefix(PREFIX).lower().replace("__", ".")
        of = key.removesuffix("_file")
        if of != key and of in secrets:
            found[of] = _secret_file(Path(value), name)
        else:
            found[key] = value
    return found


def _secret_file(path: Path, variable: str) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Usage(f"{variable}: {path} cannot be read: {_reason(error)}") from None


def _from_file(path: Path, *, required: bool) -> dict[str, Any]:
    """A TOML file as dotted keys; {} where it may be absent and is."""
    try:
        parsed = tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise Usage(f"there is no settings file {path}", hint="check --config or GAVOTTE_CONFIG") from None
        return {}
    except tomllib.TOMLDecodeError as error:
        raise Usage(f"{path} is not TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Usage(f"{path} cannot be read: {_reason(error)}") from None
    return {key: _beside(path, key, value) for key, value in _flat(parsed, "")}


def _beside(file: Path, key: str, value: Any) -> Any:
    """A relative path in a settings file is meant from that file's folder."""
    is_path = any(name == key and "Path" in str(kind) for name, kind in _walk_fields(Settings))
    return file.parent / Path(value).expanduser() if is_path and isinstance(value, str) and value else value


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"


def _flat(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise Usage(f"{section} is a single value, but {key} is set too")
    values[last] = value


def _refusal(error: ValidationError, origins: Mapping[str, str]) -> Usage:
    problem = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    origin = origins.get(key) or next((said for known, said in origins.items() if known.startswith(key)), "")
    at = f"{origin}: " if origin else ""
    if problem["type"] == "extra_forbidden":
        section = key.rpartition(".")[0]
        siblings = [name for name, _ in _walk_fields(Settings) if section and name.rpartition(".")[0] == section]
        return Usage(
            f"{at}there is no setting {key}", hint=f"known here: {', '.join(siblings or Settings.model_fields)}"
        )
    return Usage(f"{at}{key}: {problem['msg']}", hint="gavotte config show lists every setting")


def _walk(section: Section, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _walk_fields(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting as (dotted key, annotation)."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _walk_fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, kind


def described() -> list[tuple[str, str, str]]:
    """Every setting as (key, default, description), for the page of settings."""
    found = []

    def visit(section: type[Section], prefix: str) -> None:
        for name, field in section.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, Section):
                visit(kind, f"{prefix}{name}.")
            else:
                default = "$XDG_DATA_HOME/gavotte" if field.is_required() else _shown(field.default)
                found.append((prefix + name, default, field.description or ""))

    visit(Settings, "")
    return found


def _shown(value: Any) -> str:
    if isinstance(value, SecretStr):
        return "********"
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else _LOGIN.sub(r"\1:********@", str(value))


def login_name() -> str:
    """The name of this account, as far as the machine knows one."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no entry for this uid, as in many containers
        return f"uid {os.getuid()}"
