"""A Dockerfile and a compose file as tests read them: no builder is needed to see what the image will be."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
COMPOSE = ROOT / "deploy" / "compose.yaml"


@dataclass
class Image:
    """What the last stage says of the image."""

    user: str = ""
    entrypoint: list[str] = field(default_factory=list)
    health_check: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    stages: list[str] = field(default_factory=list)
    copied: dict[str, str] = field(default_factory=dict)
    """Place in the image -> path in the repository."""


def instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction and its words, continued lines joined, without comments."""
    plain = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", plain)
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def image() -> Image:
    found = Image()
    for word, rest in instructions(DOCKERFILE.read_text()):
        match word:
            case "FROM":
                found = Image(stages=[*found.stages, rest.split()[0]])
            case "USER":
                found.user = rest
            case "ENTRYPOINT":
                found.entrypoint = json.loads(rest)
            case "HEALTHCHECK":
                found.health_check = json.loads(rest[rest.index("[") :])
            case "ENV":
                found.environ |= dict(pair.split("=", 1) for pair in rest.split())
            case "COPY" if "--from" not in rest:
                *_, source, target = rest.split()
                found.copied[target] = source
    return found


def services() -> dict[str, Any]:
    """The services of the compose file, anchors resolved."""
    return dict(_compose()["services"])


def secrets() -> dict[str, str]:
    """The secrets of the compose file and the files that hold them."""
    return {name: found["file"] for name, found in _compose()["secrets"].items()}


def _compose() -> Any:
    return YAML(typ="safe").load(COMPOSE.read_text())


def interpolated(value: str, environ: dict[str, str]) -> str:
    """`${NAME:-default}` as compose reads it."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: environ.get(found[1]) or found[2], value)
