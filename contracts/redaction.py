"""Takes secrets out of text before it is recorded, logged or sent: the values this process holds, and common forms of keys.

A text that was JSON stays JSON: nothing that is taken out holds a quote or a backslash of its own.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

MASK: Final = "[redacted]"
VALUE_CHARACTERS_MIN: Final = 8
NAMES: Final = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$")
"""Variables of an environment that hold a secret, by the end of their name."""

_START: Final = (
    r"(?:(?<![A-Za-z0-9_])|(?<=\\[bfnrt])|(?<=\\x[0-9A-Fa-f]{2})|(?<=%[0-9A-Fa-f]{2})|(?<=\\u[0-9A-Fa-f]{4})"
    r"|(?<=\\U[0-9A-Fa-f]{8})|(?<=[0-9B\[]m))"
)
"""Where a word begins, also behind line ends, quotes, colours and the like that are written as letters or digits: by JSON, by
`contracts.harmless`, in addresses, for terminals."""

_FORMS: Final = re.compile(
    _START + r"(?:sk-(?:ant-|proj-)?[A-Za-z0-9_-]{24,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9_])"
    r"|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|xox[abeprs]-[A-Za-z0-9-]{10,}|[sr]k_live_[A-Za-z0-9]{16,}"
    r"|AIza[A-Za-z0-9_-]{30,}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{40,}|hf_[A-Za-z0-9]{30,}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    r"|-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----(?:[A-Za-z0-9+/=:,\s-]|\\[nr]){0,20000}?-----END (?:[A-Z]+ )*PRIVATE KEY-----"
    r"|-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----(?:[A-Za-z0-9+/=\s]|\\[nr]){0,20000})"
)
_KEPT_HEAD: Final = re.compile(
    _START + r"(?P<head>[Bb]earer |[A-Z][A-Z0-9_]*(?:KEY|TOKEN|SECRET|PASSWORD)=)"
    r"(?=[A-Za-z._~+/-]*[0-9])(?=[0-9._~+/-]*[A-Za-z])[A-Za-z0-9._~+/-]{16,}=*"
)
_LOGIN: Final = re.compile(
    r"(?P<head>\b[a-z][a-z0-9+.-]{1,15}://[^\s/:@\"'<>{}$\\]{0,100}:)"
    r"(?!(?i:p(?:ass)?(?:word|wd)?|secret|\*+)@)[^\s/@\"'<>{}$\\]{4,200}(?=@[\w.-])"
)
_HINTS: Final = {
    "I": ("AKIA", "ASIA", "AIza"),
    "J": ("eyJ",),
    "V": ("PRIVATE KEY",),
    "x": ("xox",),
    "/": ("://",),
    "r": ("earer ",),
    "-": ("sk-", "glpat-", "pypi-"),
    "_": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "k_live_", "npm_", "hf_"),
    "=": ("KEY=", "TOKEN=", "SECRET=", "PASSWORD="),
}  # fmt: skip
"""One of these stands in whatever a form matches, by a sign in them that few texts have: looking for one sign is cheap.

Most text is let through without asking the forms.
"""

_held: dict[str, None] = {}
"""The values that this process holds, in each way of writing them; one process, one set, so that nobody can be without."""
_pattern: re.Pattern[str] | None = None


def hold(values: Iterable[str]) -> None:
    """Take these values out of every text from now on. Short ones and plain words are left: they are no secrets."""
    global _pattern  # noqa: PLW0603  beside the values it is made of
    for value in values:
        if len(value) >= VALUE_CHARACTERS_MIN and not (value.isalpha() or value.startswith(("/", "~"))):
            _held.update(dict.fromkeys(_writings(value)))
    longest_first = sorted(_held, key=len, reverse=True)
    _pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def secrets_in(environ: Mapping[str, str]) -> list[str]:
    """The values of variables whose names say that they hold a secret."""
    return [value for name, value in environ.items() if NAMES.search(name.upper())]


def redacted(text: str) -> str:
    """The text without secrets."""
    if _pattern is not None and _any_in(_held, text):
        text = _pattern.sub(MASK, text)
    if _hints(text):
        text = _FORMS.sub(MASK, text)
        text = _KEPT_HEAD.sub(_masked_tail, text)
        text = _LOGIN.sub(_masked_tail, text)
    return text


def suspicious(text: str) -> bool:
    """Whether there may be a secret in the text, whatever stands beside it; False says that there is none."""
    return _any_in(_held, text) or _hints(text)


def _hints(text: str) -> bool:
    for sign, hints in _HINTS.items():  # noqa: SIM110  # a generator costs as much as the search
        if sign in text and _any_in(hints, text):
            return True
    return False


def _any_in(wanted: Iterable[str], text: str) -> bool:
    """Whether one of these stands in the text. From its end a text is searched three times as fast as by `in`."""
    for each in wanted:  # noqa: SIM110  # likewise
        if text.rfind(each) >= 0:
            return True
    return False


def holds_own(text: str) -> bool:
    """Whether the text holds a value of this process, and not merely something of a key's form."""
    return _any_in(_held, text)


def redacted_plain(value: Any) -> Any:
    """The same for plain data (what JSON gives): every text inside, keys of mappings too."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {redacted(key) if isinstance(key, str) else key: redacted_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redacted_plain(each) for each in value)
    return value


def _masked_tail(found: re.Match[str]) -> str:
    return found["head"] + MASK


def _writings(value: str) -> Iterable[str]:
    """A value as it is, and as JSON, an address, hexadecimal digits, reversed or base64 (at any offset) would show it."""
    raw = value.encode("utf-8", "surrogatepass")
    yield value
    yield json.dumps(value)[1:-1]
    yield quote(value, safe="")
    yield raw.hex()
    yield value[::-1]
    for offset in range(3):
        known = slice((0, 2, 3)[offset], (offset + len(raw)) * 8 // 6)  # the digits that no neighbour has a part in
        core = base64.b64encode(b"\0" * offset + raw).decode()[known]
        yield core
        yield core.translate(str.maketrans("+/", "-_"))
