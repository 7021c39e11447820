"""Rules on text as such: secrets, characters that hide, words meant for a reviewer that is a machine, shell one-liners."""

from __future__ import annotations

import ast
import math
import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

from agents.tools.gates.change import Change, ChangedFile, Severity, finding, visible
from agents.tools.gates.syntax import docstrings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from contracts.events import Finding

KEYS: tuple[tuple[str, str], ...] = (
    ("a private key", r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY"),
    ("an AWS key", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    ("a GitHub token", r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{20,})"),
    ("a GitLab token", r"\bglpat-[A-Za-z0-9_-]{16,}"),
    ("a Slack token", r"\bxox[abprs]-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/T\w+/B\w+/\w+"),
    ("a payment key", r"\b[sr]k_live_[A-Za-z0-9]{10,}"),
    ("a model key", r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{24,}"),
    ("a Google key", r"\bAIza[A-Za-z0-9_-]{30,}"),
    ("a package registry token", r"\b(?:npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,})"),
    ("a signed token", r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
)
NAMED_SECRET = re.compile(
    r"(?i)(?:passw(?:or)?d|passwd|secret|api[_-]?key|access[_-]?key|auth[_-]?token|access[_-]?token|private[_-]?key|token)\w{0,40}"
    r"[\"']?\s*(?::\s*\w+\s*)?[:=]\s*(?P<quote>[\"'])(?P<value>[^\"'\s]{8,})(?P=quote)"
)
SETTING_SECRET = re.compile(
    r"(?i)(?:passw(?:or)?d|passwd|secret|api[_-]?key|access[_-]?key|private[_-]?key|token)[\"']?\s*[:=]\s*"
    r"(?P<value>(?=[^\s#]{0,99}?(?=[A-Za-z+/]{0,9}[0-9])(?=[0-9+/]{0,9}[A-Za-z])[A-Za-z0-9+/]{10})[A-Za-z0-9+/_=.!@%^&*-]{10,})"
    r"\s*(?:#|;|$)"
)
"""In files of settings values stand without quotes; names such as `app-credentials-v2` are left alone."""
SETTINGS_NAME = re.compile(r"(?i)(?:.*\.)?env(?:\..*)?$|.*\.(?:ini|cfg|conf|properties|ya?ml|toml|tfvars)$")
URL_SECRET = re.compile(
    r"(?<!\w)[a-z][a-z0-9+.-]{1,15}://[^\s/:@\"'<>{}$]+:(?P<value>[^\s/@\"'<>{}$]{4,})@(?P<host>[\w.-]+)"
)
PLACEHOLDER = re.compile(
    r"(?i)example|change[_-]?me|dummy|fake|sample|placeholder|redacted|your[_-]|xxx|[<{}]|\.\.\.|\*\*\*|%\("
)

PIECE_CHARACTERS = 2000

BIDI = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")
INVISIBLE = re.compile("[\u00ad\u115f\u1160\u180e\u200b-\u200d\u2060-\u2064\u3164\ufeff\uffa0\U000e0000-\U000e007f]")
CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\x80-\x84\x86-\x9f]")
CODING = re.compile(r"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
SAFE_CODINGS = {"utf-8", "utf8", "utf-8-sig", "ascii", "us-ascii", "latin-1", "iso-8859-1"}

TO_A_MACHINE = re.compile(
    r"(?i)ignore\s+(?:all\s+|any\s+|the\s+)*(?:previous|prior|above|earlier|preceding)\s+(?:instructions|rules|prompts?|messages)"
    r"|<\|?(?:im_start|system|assistant|endoftext)\|?>|[\"']role[\"']+\s*:\s*[\"']+(?:system|assistant)"
    r"|[\"']?verdict[\"']?\s*[:=]\s*[\"']?(?:approved?|accept(?:ed)?|pass(?:ed)?|lgtm)\b"
    r"|\b(?:automated|ai|llm|machine|model|bot|agent|assistant|copilot|automatic)s?\b[\w\s,/-]{0,30}\b(?:review(?:er|ers|ing|s)?|checkers?|judges?|graders?)\b"
    r"[^\n]{0,300}\b(?:approve[ds]?|accept(?:ed)?|lgtm|verdict|skip|not run|pass this|ignore)\b"
    r"|\b(?:note|message|instructions?|attention|dear)\s+(?:for|to)?\s*(?:the\s+|any\s+|all\s+)*(?:ai|llm|bot|assistant|model|agent|reviewer|reviewing)s?\b"
    r"[^\n]{0,300}\b(?:approve|accept|lgtm|verdict|skip|do not run|ignore)\b"
    r"|(?:reply|respond|answer)\s+(?:only\s+)?with\s+\W{0,4}(?:verdict|approved?|lgtm|accept|yes)\b"
    r"|(?:skip|bypass|do not (?:run|repeat)|no need (?:to|for))\s+(?:the\s+|any\s+|all\s+|further\s+)*(?:review|gates?|security (?:check|review)|tests?)\b[^\n]{0,80}\b(?:approve|merge|deploy|accept)"
)  # fmt: skip

COMMANDS: tuple[tuple[str, str], ...] = (
    ("pipes a download into a shell", r"\b(?:curl|wget|fetch)\b[^\n|;]*\|\s*(?:sudo\s+)?(?:ba|z|da|k)?sh\b|\b(?:ba)?sh\s+(?:-c\s+)?[\"']?[<$]\(\s*(?:curl|wget)"),
    ("sends data away", r"\b(?:curl|wget)\b[^\n]*(?:--data\S*|-d\s|--upload-file|-T\s|-F\s|--post-(?:file|data))|\b(?:env|printenv)\b[^\n]*\|\s*(?:curl|nc|wget)"),
    ("opens a remote shell", r"/dev/tcp/|\b(?:nc|ncat|netcat)\b[^\n]*\s-\w*[ec]\b|\bsocat\b[^\n]*EXEC"),
    ("decodes and runs", r"base64\s+(?:-d|--decode|-D)\b[^\n]*\|\s*(?:ba|z)?sh|xxd\s+-r[^\n]*\|\s*(?:ba)?sh"),
    ("removes more than its own", r"\brm\s+-\w*[rf]\w*\s+(?:--\S+\s+)*[\"']?(?:/|~|\$HOME|\$\{HOME\})[\"']?(?:\s|$|/\*)"),
    ("sets itself up to run again", r"\bcrontab\b|/etc/cron|autostart|LaunchAgents|LaunchDaemons|systemctl\s+(?:--user\s+)?enable|/etc/rc\.local|/etc/init\.d|CurrentVersion\\+Run|schtasks|(?:>>|tee -a)\s*[\"']?(?:~|\$HOME|\$\{HOME\})/\.(?:bash|zsh|profile|config)|authorized_keys|\.git/hooks"),
    ("opens files to everyone", r"\bchmod\s+(?:-R\s+)?(?:0?777|a\+rwx|o\+w|u\+s|\+s)\b"),
    ("runs a shell command as an address", r"\bext::"),
)  # fmt: skip


def judge_secrets(change: Change) -> Iterator[Finding]:
    """Keys and passwords in added lines. Known forms count everywhere; named ones not where they plainly are samples."""
    for file in change.files:
        for number, line in _pieces(file.added_lines):
            for what, pattern in KEYS:
                if re.search(pattern, line) and "EXAMPLE" not in line:
                    yield _masked(finding("secrets", "blocker", f"the line holds {what}", file, number))
            named = NAMED_SECRET.search(line)
            if not named and SETTINGS_NAME.match(file.name):
                named = SETTING_SECRET.search(line)
            if named and _looks_secret(named["value"]):
                severity: Severity = "minor" if file.is_test or file.is_document else "blocker"
                yield _masked(
                    finding("secrets", severity, "a value is given to a name that keeps secrets", file, number)
                )
            url = URL_SECRET.search(line)
            if (
                url
                and not PLACEHOLDER.search(url[0])
                and not re.fullmatch(r"(?i)p(ass)?(word|wd)?|secret", url["value"])
            ):
                local = re.fullmatch(r"localhost|127\.[\d.]+", url["host"]) or file.is_test or file.is_document
                yield _masked(
                    finding("secrets", "minor" if local else "blocker", "an address holds a password", file, number)
                )


def judge_text(change: Change) -> Iterator[Finding]:
    """Characters that show a reader something else than what runs, and words addressed to a machine that reviews."""
    for file in change.files:
        yield from _hidden(file)
        yield from _addressed(file)
        yield from _commands(file)
        if file.is_python:
            yield from _look_alikes(file)


def _pieces(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """The lines, long ones in parts: a search that starts anew at each letter must not see a megabyte."""
    for number, line in lines:
        for start in range(0, max(1, len(line)), PIECE_CHARACTERS):
            yield number, line[start : start + PIECE_CHARACTERS]


def _hidden(file: ChangedFile) -> Iterator[Finding]:
    if set(visible(file.path)) != set(file.path) or BIDI.search(file.path):
        yield finding("text", "blocker", "the file's name holds characters that cannot be seen", file)
    for number, line in file.added_lines:
        if BIDI.search(line) or CONTROL.search(line):
            yield finding("text", "blocker", "the line holds characters that change how it is shown", file, number)
        elif INVISIBLE.search(line) and not file.is_document:
            yield finding("text", "blocker", "the line holds characters that cannot be seen", file, number)
        elif len(line) > 2000 and not file.is_document:
            yield finding("text", "major", f"a line of {len(line)} characters cannot be read", file, number)
        coding = CODING.match(line) if file.is_python and number <= 2 else None
        if coding and coding[1].lower().replace("_", "-") not in SAFE_CODINGS:
            yield finding("text", "blocker", f"the file is to be read as {coding[1]!r}, not as it looks", file, number)


def _addressed(file: ChangedFile) -> Iterator[Finding]:
    """Comments wrap: each run of added lines is read as one text."""
    block: list[tuple[int, str]] = []
    for number, line in (*file.added_lines, (-1, "")):
        if block and number != block[-1][0] + 1:
            text = " ".join(re.sub(r"^\s*(?:#|//|\*|--|;)+", "", part).strip() for _, part in block)
            if TO_A_MACHINE.search(text):
                at = next((n for n, part in block if TO_A_MACHINE.search(part)), block[0][0])
                yield finding("text", "blocker", "the text tells a reviewer what to decide", file, at)
            block = []
        block.append((number, line))


def _commands(file: ChangedFile) -> Iterator[Finding]:
    """Shell commands in files that something may run; prose and comments run nowhere."""
    if file.is_document or file.is_test:
        return
    for number, line in _pieces(_texts_of_python(file) if file.is_python else _uncommented(file)):
        for what, pattern in COMMANDS:
            if re.search(pattern, line):
                yield finding("unsafe", "blocker", f"the line {what}", file, number)


def _uncommented(file: ChangedFile) -> Iterator[tuple[int, str]]:
    for number, line in file.added_lines:
        if line.startswith("#!") or not line.lstrip().startswith(("#", "//", "/*")):
            yield number, line


def _texts_of_python(file: ChangedFile) -> Iterator[tuple[int, str]]:
    """The new string literals of a module but for its docstrings, which are prose."""
    held = (
        {node.value for node in ast.walk(file.old_tree) if isinstance(node, ast.Constant)} if file.old_tree else set()
    )
    prose = docstrings(file.new_tree) if file.new_tree else set()
    for node in ast.walk(file.new_tree) if file.new_tree else ():
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in prose
            and node.value not in held
        ):
            yield node.lineno, node.value


def _look_alikes(file: ChangedFile) -> Iterator[Finding]:
    """Identifiers that mix scripts, so that two names look like one."""
    held = _identifiers(file.old_tree)
    for name, line in _identifiers(file.new_tree).items():
        if name in held or name.isascii():
            continue
        scripts = {unicodedata.name(c, "?").split()[0] for c in name if c.isalpha()}
        if len(scripts & {"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "FULLWIDTH", "MATHEMATICAL"}) > 1:
            yield finding("text", "blocker", f"the name {name!r} mixes letters that look alike", file, line)
        elif scripts & {"CYRILLIC", "GREEK", "FULLWIDTH", "MATHEMATICAL"}:
            yield finding("text", "major", f"the name {name!r} uses letters that look like Latin ones", file, line)


def _identifiers(tree: ast.Module | None) -> dict[str, int]:
    names: dict[str, int] = {}
    for node in ast.walk(tree) if tree else ():
        for field in ("id", "name", "attr", "arg"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                names.setdefault(value, getattr(node, "lineno", 1))
    return names


def _looks_secret(value: str) -> bool:
    if PLACEHOLDER.search(value) or re.fullmatch(r"[a-z_ -]+|[A-Z_]+|[\d.]+|[\w.-]+\(.*|\W+", value):
        return False
    return entropy(value) > 2.8


def entropy(text: str) -> float:
    """Bits per character."""
    counts = Counter(text)
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values())


def _masked(found: Finding) -> Finding:
    """A secret is not repeated in the log of what was found."""
    return found.model_copy(update={"evidence": re.sub(r"[^\s\"'=:]{8,}", "********", found.evidence)})
