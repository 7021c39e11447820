"""Which provider and which model: what a key in the environment does, what comes first, models by purpose and layer."""

from __future__ import annotations

from pathlib import Path

from agents.settings import MODEL_KEYS, Settings, load_settings
from agents.wiring import model_of
from console.supervise import environment_of, posts


def chosen(data: Path, **environ: str) -> Settings:
    return load_settings(data=data, environ=environ)


def test_a_key_in_the_environment_is_all_it_takes(tmp_path: Path) -> None:
    assert chosen(tmp_path).model.chosen == "none"
    with_key = chosen(tmp_path, ANTHROPIC_API_KEY="sk-1")
    assert with_key.model.chosen == "anthropic"
    assert with_key.origin("model.api_key") == "ANTHROPIC_API_KEY"
    assert "sk-1" not in str(with_key.rows())
    assert chosen(tmp_path, GAVOTTE_MODEL_URL="http://x").model.chosen == "anthropic"
    assert chosen(tmp_path, ANTHROPIC_API_KEY="k", GAVOTTE_MODEL__PROVIDER="none").model.chosen == "none"
    assert chosen(tmp_path, ANTHROPIC_API_KEY="k", GAVOTTE_MODEL__SCRIPT="s.json").model.chosen == "scripted"


def test_what_is_meant_for_us_comes_first(tmp_path: Path) -> None:
    given = {"ANTHROPIC_API_KEY": "theirs", "GAVOTTE_MODEL__API_KEY": "ours", "ANTHROPIC_BASE_URL": "http://theirs"}
    (tmp_path / "gavotte.toml").write_text("[model]\nurl = 'http://file'\n")
    found = chosen(tmp_path, **given).model
    assert found.api_key is not None
    assert (found.api_key.get_secret_value(), found.url) == ("ours", "http://file")
    assert chosen(tmp_path, **given, GAVOTTE_MODEL_URL="http://short").model.url == "http://short"


def test_models_by_purpose_and_layer(tmp_path: Path) -> None:
    environ = {"GAVOTTE_MODEL__STRONG": "big", "GAVOTTE_MODEL__REVIEW": "critic", "GAVOTTE_MODEL__FALLBACK": "a, b"}
    found = chosen(tmp_path, **environ).model
    purposes = ("triage", "planning", "coding", "review", "small", "strong", "annotating")
    named = [found.name_for(purpose) for purpose in purposes]
    assert named == ["claude-haiku-5-5", "big", "big", "critic", "claude-haiku-5-5", "big", "big"]
    assert found.fallback == ("a", "b")


def test_who_deploys_has_neither_a_model_nor_its_key(tmp_path: Path) -> None:
    given = {"ANTHROPIC_API_KEY": "sk-1", "GAVOTTE_MODEL__FALLBACK_API_KEY_FILE": "/k", "PATH": "/bin"}
    found = {post.role: environment_of(post, given) for post in posts()}
    assert found["deploy"] == {"PATH": "/bin"}
    assert all(environment == given for role, environment in found.items() if role != "deploy")
    settings = chosen(tmp_path, ANTHROPIC_API_KEY="sk-1")
    assert [model_of(settings, role).name for role in ("coding", "deploy")] == ["anthropic", "none"]


def test_every_secret_of_the_model_is_known_to_be_one() -> None:
    secrets = {
        name
        for name, field in type(chosen(Path("/tmp")).model).model_fields.items()
        if "Secret" in str(field.annotation)
    }
    assert {f"GAVOTTE_MODEL__{name.upper()}{end}" for name in secrets for end in ("", "_FILE")} <= MODEL_KEYS
