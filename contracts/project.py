"""A registered repository and the settings that its operator saw and pinned."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.ids import derived

if TYPE_CHECKING:
    from pathlib import Path

Approval = Literal["always", "risky", "never"]
"""When a person must let a release into production: always, where a gate saw a risk, or never."""


class ProjectSettings(BaseModel):
    """How a project is tested, released and approved. An empty `test_command` means that there are no tests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    test_command: tuple[str, ...] = ()
    environment: str | None = None
    prepare: str | None = None
    staging: str | None = None
    production: str | None = None
    health: tuple[str, ...] = ()
    approval: Approval = "always"
    test_timeout_seconds: int = Field(default=300, ge=1, le=24 * 3600)

    @property
    def digest(self) -> str:
        """`sha256:...` over the canonical JSON of all settings."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


class Project(BaseModel):
    """One repository under gavotte's care. `environment` is the resolved folder whose `bin` the sandbox puts first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    project_id: str
    name: str
    path: str
    settings: ProjectSettings
    digest: str
    environment: str = ""
    registered_at_us: int

    @model_validator(mode="after")
    def _digest_is_of_the_settings(self) -> Self:
        if self.digest != self.settings.digest:
            msg = f"the digest of project {self.name!r} is not the digest of its settings"
            raise ValueError(msg)
        return self

    def with_settings(self, settings: ProjectSettings, environment: str) -> Project:
        """The same project with other settings, pinned by their digest."""
        return self.model_copy(update={"settings": settings, "digest": settings.digest, "environment": environment})


def project_id_for(path: Path) -> str:
    """One project per real path of a repository."""
    return derived("project", str(path.resolve()))
