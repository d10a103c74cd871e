"""Exceptions shown to users. Every message says what failed, where, and how to fix it; `assert` is for invariants."""

import base64
import errno
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from html.entities import html5
from pathlib import Path


class SrumError(Exception):
    """Base of everything srum raises on purpose; the command line prints it without a traceback."""


class PluginError(SrumError):
    """A plugin is broken, misspelt, incomplete or clashes with another."""


class ConfigError(SrumError):
    """Settings that cannot be used. Collects every problem before it is raised."""


class RecordError(SrumError):
    """A run's folder holds something that cannot be read, or was made with other settings."""


class CheckpointError(SrumError):
    """A model directory is incomplete, does not match its configuration, or does not fit this machine."""


class TrainingError(SrumError):
    """Training cannot start or must not continue."""


class AnswerError(SrumError):
    """The answerer cannot be reached, or does not answer."""


def refuse(condition: bool, component: object, sentence: str) -> None:
    """Raise PluginError naming the component's class if the condition holds."""
    if condition:
        raise PluginError(f"{type(component).__module__}:{type(component).__qualname__} {sentence}")


def who_ended(error: SystemExit) -> str:
    """Name the line that called sys.exit(): nothing that works for a command may end it without a word."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{last.filename}, line {last.lineno} called sys.exit({clean(error.code)}), which ended the command before it "
        "was done. If that is a plugin's code, it should raise an exception instead."
    )


_ROOM = "Free some space, then run the same command again: what is on disk is complete, and the run resumes from it."
_ELSEWHERE = "Choose another folder with --out."
_ADVICE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "The file system or a limit (ulimit -f) allows no larger file.",
    errno.EACCES: f"Make it readable and writable for you. {_ELSEWHERE}",
    errno.EPERM: f"Make it readable and writable for you. {_ELSEWHERE}",
    errno.EROFS: _ELSEWHERE,
    errno.EEXIST: f"Something else is where a folder is needed. {_ELSEWHERE}",
    errno.ENOTDIR: f"A file is where a folder is needed. {_ELSEWHERE}",
    errno.ENAMETOOLONG: f"The name is too long for the file system. {_ELSEWHERE}",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
}


def _code(error: BaseException) -> int | None:
    """The errno of an error of the file system; safetensors gives it as text, "(os error 28)"."""
    if isinstance(error, OSError):
        return error.errno
    message = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(message[1]) if message else None


def explain(error: BaseException) -> str | None:
    """Describe an error of the machine (disk, permissions, memory, network) in a sentence; None for any other error."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            f"There is not enough memory: {clean(error) or 'an allocation failed'}. `srum doctor --plan` with the same "
            "settings predicts the memory of each stage and suggests settings that take less."
        )
    code = _code(error)
    if code is None:
        return f"{type(error).__name__}: {clean(error)}" if isinstance(error, OSError) else None
    names = [name for name in (getattr(error, "filename", None), getattr(error, "filename2", None)) if name]
    where = f"{' -> '.join(map(clean, names))}: " if names else ""
    return f"{where}{os.strerror(code)}. {_ADVICE.get(code, '')}".strip()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the file system that name no file (a write, a flush, a library's own) name this one."""
    try:
        yield
    except Exception as error:
        code = _code(error)
        if code is None or getattr(error, "filename", None) is not None:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def extra(name: str) -> str:
    """How to install an extra of srum, for messages."""
    return f'pip install "srum[{name}]" (in a checkout of srum: pip install -e ".[{name}]")'


_secrets: dict[str, re.Pattern[str]] = {}


def hide(secret: str) -> None:
    """Never show this text again: `clean` and `mask` leave it out, however it is escaped.

    That is in JSON, URLs, HTML and Python's repr, in base64 also as a part of a longer text, and with
    other characters than printable ASCII in between. Texts of fewer than 8 characters are no secrets
    ("none", "EMPTY"): they would be cut out of other words."""
    if len(secret) >= 8:
        data = secret.encode()
        forms = ["[^!-~]{0,3}".join(map(_escaped, secret))]
        for before in range(3):  # base64 writes 3 bytes as 4 characters; the first and last may be of neighbours too
            digits = base64.b64encode(bytes(before) + data).rstrip(b"=").decode()
            whole = digits[(4 * before + 2) // 3 : len(digits) - ((before + len(data)) % 3 > 0)]
            forms += [re.escape(whole), re.escape(whole.translate(_URL_SAFE))]
        _secrets[secret] = re.compile("|".join(dict.fromkeys(forms)))


_URL_SAFE = str.maketrans("+/", "-_")


def _escaped(letter: str) -> str:
    """A pattern for a character as it is, or as JSON, URLs, HTML and repr escape it, also more than once."""
    code = f"0*(?i:{ord(letter):x})"
    names = "|".join(name for name, value in html5.items() if value == letter and name.endswith(";"))
    entity = rf"&(?:amp;)*(?:#{ord(letter)};|#[xX]{code};{f'|{names}' if names else ''})"
    some = r"\\{1,8}"  # a bound: tried at every backslash of a text
    return rf"(?:{re.escape(letter)}|{some}{re.escape(letter)}|%(?:25)*{code}|{some}[ux]{code}|{entity})"


def mask(text: str) -> str:
    """Return the text without the secrets that were given to `hide`."""
    for _, pattern in sorted(_secrets.items(), key=lambda pair: len(pair[0]), reverse=True):
        text = pattern.sub("(hidden)", text)
    return text


def clean(text: object, limit: int = 400) -> str:
    """Return text of a server, plugin or file as one printable line of at most `limit` characters.

    Control characters (also those that reorder text) become spaces and secrets given to `hide` are
    masked. Bytes are decoded; an object whose `str` fails is named by its type. Markup of rich is
    left: print it with markup=False.
    """
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    try:
        words = str(text)
    except BaseException:  # a plugin's exception can raise anything here, SystemExit too
        words = f"({type(text).__name__} without a message)"
    words = mask(words[: 100 * limit])[: 10 * limit]  # more than enough, also where most of it is left out
    line = " ".join("".join(character if character.isprintable() else " " for character in words).split())
    return line if len(line) <= limit else f"{line[:limit]}…"
