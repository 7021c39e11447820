"""The tables of the settings: what can be set, its default and what it means. docs/settings.md is made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from contracts.events import Budget


class Section(BaseModel):
    """A table of the settings file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TaskSettings(Section):
    """What a task gets where its submission does not say otherwise."""

    tokens: int = Field(default=200_000, ge=0, description="Tokens that the models of one task may use.")
    steps: int = Field(default=60, ge=1, description="Model and tool calls that one task may make.")
    wall_minutes: float = Field(
        default=30, gt=0, description="Minutes of work for one task; waiting for people is not counted."
    )
    cost_dollars: float = Field(default=2, ge=0, description="Dollars that the models of one task may cost.")
    revisions: int = Field(default=3, ge=1, description="Changes that may be proposed before a person is asked.")

    def budget(self) -> Budget:
        """The caps in the units of the events."""
        return Budget(
            tokens=self.tokens,
            steps=self.steps,
            wall_seconds=round(self.wall_minutes * 60),
            cost_microdollars=round(self.cost_dollars * 1_000_000),
        )


class BusSettings(Section):
    """How events travel."""

    backend: Literal["embedded", "kafka"] = Field(
        default="embedded",
        description="`embedded`: a SQLite file in the data folder, shared by all processes. `kafka`: Apache Kafka.",
    )
    retention_hours: float = Field(
        default=7 * 24,
        ge=1,
        description="Hours that records are kept: by the embedded bus once every group has read them, in Kafka as its "
        "topics are made. Letters stay for ever, and so do the store's events.",
    )
    partitions: int = Field(
        default=8, ge=1, le=1000, description="Partitions of every topic, and so the most processes of one role."
    )
    servers: str = Field(default="", description="Kafka brokers to ask first, as `host:port,host:port`.")
    security: Literal["plaintext", "tls", "sasl"] = Field(
        default="plaintext", description="How Kafka is spoken to. `sasl` is a login by SCRAM-SHA-512 over TLS."
    )
    user: str = Field(default="", description="The name to log in to Kafka with.")
    password: SecretStr | None = Field(
        default=None,
        description="The password to log in to Kafka with; also from the file that `GAVOTTE_BUS__PASSWORD_FILE` names.",
    )
    cafile: Path | None = Field(
        default=None, description="The authorities to trust for Kafka's TLS, as PEM; empty: those of the system."
    )
    prefix: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]*$",
        max_length=100,
        description="What stands before the names of all topics and groups in Kafka, for instance `staging.`.",
    )
    replication: int = Field(
        default=0, ge=0, description="Replicas of topics that are made; 0: as the brokers are set. 3 in production."
    )
    session_seconds: float = Field(
        default=10, ge=1, description="Seconds of silence after which a process loses its partitions to others."
    )
    poll_interval_seconds: float = Field(
        default=300, ge=1, description="Seconds after which a process that fetches nothing gives its partitions up."
    )
    timeout_seconds: float = Field(default=20, gt=0, description="Seconds in which Kafka must answer.")


class StoreSettings(Section):
    """Where the truth is kept."""

    backend: Literal["sqlite", "postgres"] = Field(
        default="sqlite", description="`sqlite`: a file in the data folder. `postgres`: PostgreSQL 15 or newer."
    )
    url: SecretStr | None = Field(
        default=None,
        description="The database, as `postgresql://user:password@host/database`; also from the file that "
        "`GAVOTTE_STORE__URL_FILE` names.",
    )
    owner_url: SecretStr | None = Field(
        default=None,
        description="The same database as the owner of its tables, for `gavotte store migrate` and `grants`; empty: "
        "`store.url`. Also from the file that `GAVOTTE_STORE__OWNER_URL_FILE` names.",
    )
    connections: int = Field(
        default=4, ge=2, le=100, description="Connections to PostgreSQL that one process opens at most."
    )
    journal_days: int = Field(
        default=90,
        ge=30,
        description="Days that `gavotte prune` leaves of what the steps of ended tasks asked and were answered. What was "
        "done, why, its digests and its cost are never removed, nor are events.",
    )


class RegistrySettings(Section):
    """A schema registry with Confluent's API: its ids stand on Kafka's topics; without one the committed ids travel."""

    url: str = Field(
        default="",
        description="Base of its API, for instance `http://registry:8081` (Apicurio: `…/apis/ccompat/v7`); empty: none.",
    )
    user: str = Field(default="", description="The name to log in with.")
    password: SecretStr | None = Field(
        default=None,
        description="The password to log in with; also from the file that `GAVOTTE_REGISTRY__PASSWORD_FILE` names.",
    )
    token: SecretStr | None = Field(
        default=None,
        description="A bearer token instead of a login; also from the file that `GAVOTTE_REGISTRY__TOKEN_FILE` names.",
    )
    cafile: Path | None = Field(
        default=None, description="The authorities to trust for `https`, as PEM; empty: those of the system."
    )
    timeout_seconds: float = Field(default=5, gt=0, description="Seconds in which each call must be answered.")
    register_schemas: bool = Field(
        default=True,
        description="Whether an agent registers at its start what is missing there; if not, `gavotte contracts push` does.",
    )


class ModelSettings(Section):
    """Who answers where a role asks a model."""

    provider: Literal["auto", "none", "scripted", "anthropic"] = Field(
        default="auto",
        description="`anthropic`: the Messages API over HTTP. `scripted`: answers from a file, no AI is called. "
        "`none`: tasks by `command` and `patch` only. `auto`: what the other settings allow, in this order: "
        "`scripted` with a script, `anthropic` with a key or a url, `none`.",
    )
    script: Path | None = Field(default=None, description="The file of answers for the provider `scripted`.")
    url: str = Field(
        default="",
        description="Where the Messages API is spoken: a gateway, a local model, `gavotte model-server`; empty: "
        "Anthropic's own. Also from `GAVOTTE_MODEL_URL` or `ANTHROPIC_BASE_URL`.",
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="The key of the provider; also from `ANTHROPIC_API_KEY`, or from the file that "
        "`GAVOTTE_MODEL__API_KEY_FILE` names.",
    )
    small: str = Field(default="claude-haiku-5-5", min_length=1, description="The model for light work, as triage is.")
    strong: str = Field(default="claude-sonnet-5-5", min_length=1, description="The model for all other work.")
    triage: str = Field(default="", description="The model that sorts tasks; empty: `model.small`.")
    planning: str = Field(default="", description="The model of the planning role; empty: `model.strong`.")
    coding: str = Field(default="", description="The model of the coding role; empty: `model.strong`.")
    review: str = Field(
        default="", description="The model of the review role, best another than coding's; empty: `model.strong`."
    )
    fallback: tuple[str, ...] = Field(
        default=("claude-opus-5-5",),
        description="Models that are asked in this order when the first does not answer; with commas in a variable. "
        "`name@http://...` is a model at another server.",
    )
    fallback_api_key: SecretStr | None = Field(
        default=None,
        description="The key for models at another server; also from the file that "
        "`GAVOTTE_MODEL__FALLBACK_API_KEY_FILE` names. `model.api_key` never goes there.",
    )
    output_tokens: int = Field(
        default=16_000, ge=16, description="Tokens that one answer may have, the model's thinking included."
    )
    context_tokens: int = Field(
        default=32_000,
        ge=8_000,
        description="Tokens that one request may have, its answer not counted. What does not fit is cut or left out, the "
        "least important first.",
    )
    turns: int = Field(default=20, ge=1, description="Calls of the model for one change before a person is asked.")
    stuck_turns: int = Field(
        default=5, ge=1, description="Calls in a row that bring no new evidence before a person is asked."
    )
    timeout_seconds: float = Field(default=300, gt=0, description="Seconds that one call may take.")
    idle_seconds: float = Field(default=60, gt=0, description="Seconds that a server may be silent during a call.")
    prices: Path | None = Field(
        default=None, description="A file of prices, in front of those that gavotte knows; docs/models.md shows a row."
    )

    @field_validator("fallback", mode="before")
    @classmethod
    def _by_commas(cls, value: Any) -> Any:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @property
    def chosen(self) -> Literal["none", "scripted", "anthropic"]:
        """The provider, `auto` resolved."""
        if self.provider != "auto":
            return self.provider
        if self.script is not None:
            return "scripted"
        return "anthropic" if self.api_key is not None or self.url else "none"

    def name_for(self, purpose: str) -> str:
        """The model of a purpose: `triage`, a role, or a layer (`small`, `strong`)."""
        own = {"triage": self.triage, "planning": self.planning, "coding": self.coding, "review": self.review}
        return own.get(purpose) or (self.small if purpose in {"small", "triage"} else self.strong)


class SandboxSettings(Section):
    """Where code of repositories and of models runs."""

    kind: Literal["auto", "bubblewrap", "landlock"] = Field(
        default="auto", description="`auto` takes bubblewrap where it works, else Landlock with seccomp, else refuses."
    )
    wall_seconds: float = Field(
        default=3600,
        gt=0,
        description="Seconds that one run may take, whatever a project asks for (`test_timeout_seconds`, 300 by default).",
    )
    memory_mib: int = Field(default=2048, ge=64, description="Memory of one run, in MiB.")
    processes: int = Field(default=256, ge=1, description="Processes and threads of one run.")
    disk_mib: int = Field(default=512, ge=16, description="Size of the copy of the tree that a run may write, in MiB.")
    output_kib: int = Field(default=1024, ge=1, description="Output of one run that is kept, in KiB.")


class WorkerSettings(Section):
    """How an agent process goes about its deliveries."""

    concurrency: int = Field(default=8, ge=1, le=1024, description="Tasks that one process handles side by side.")
    batch: int = Field(
        default=200, ge=1, le=1000, description="Records that are fetched and committed together at most."
    )
    sweep_seconds: float = Field(
        default=30, gt=0, description="Seconds between two looks into the store for what the bus did not bring."
    )
    stop_seconds: float = Field(
        default=10, gt=0, description="Seconds that work in flight gets when a process is stopped."
    )


class OperatorSettings(Section):
    """Who you are when you approve, deny, raise, resume or lift."""

    name: str = Field(default="", max_length=128, description="Your name in events; empty: your login name.")
    key: Path | None = Field(
        default=None, description="Your private key; empty: $XDG_CONFIG_HOME/gavotte/operator.key, made at first use."
    )
    four_eyes: bool = Field(
        default=False, description="Whether whoever submitted a task may not approve it; the deploy agent holds it."
    )


class LogSettings(Section):
    """What the processes write about themselves."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least serious lines that are kept in logs/."
    )
    format: Literal["text", "json"] = Field(
        default="text",
        description="`json`: one object a line, with the ids of task, event, correlation and trace at work.",
    )
    stream: Literal["stderr", "stdout"] = Field(
        default="stderr",
        description="Where an agent's lines go, as for containers; under `gavotte up` always to logs/.",
    )


class TelemetrySettings(Section):
    """What others see of an agent process. Spans go where the standard OTEL_* variables say: docs/telemetry.md."""

    port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of `/metrics`, `/healthz` and `/readyz` of each agent; 0 takes a free one, empty: none.",
    )
    host: str = Field(default="127.0.0.1", description="The address that the port is opened at.")
    relation: Literal["parent", "link"] = Field(
        default="parent",
        description="`parent`: a task is one trace. `link`: each delivery is one, linked to the sending of its event.",
    )
