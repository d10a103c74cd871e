"""Where servers are and what opens them, as settings and the environment say. A key is never shown."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from srum_core.errors import ConfigError, hide


def read_urls(setting: str) -> list[str]:
    """URLs, out of one or several with commas in between; they may be shown. Raises ConfigError."""
    urls = [each.strip() for each in setting.split(",")]
    for url in urls:
        _check(url)
    if twice := next((each for each in urls if urls.count(each) > 1), None):
        raise ConfigError(
            f"answerer.url names {twice} twice. Name every server once; answerer.concurrency is for each of them."
        )
    return urls


def _check(url: str) -> None:
    """Raise ConfigError, without showing the URL, for what is none or holds a secret."""
    if not url:
        raise ConfigError(
            "The answerer remote does not know whom to ask: set answerer.url, such as "
            '"http://localhost:8000/v1", or the environment variable OPENAI_BASE_URL.'
        )
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or not url.isprintable():
        raise ConfigError(
            "The answerer remote cannot use its URL (answerer.url, or the environment variable OPENAI_BASE_URL): it "
            'should look like "http://localhost:8000/v1".'
        )
    if any(each in url for each in "@?#"):  # also where the password itself holds a slash
        raise ConfigError(
            "The URL of a server (answerer.url, or the environment variable OPENAI_BASE_URL) must not "
            "hold a user, a password or a query: it is written into run.toml and the report. Put the "
            "key into the environment variable that answerer.key_env names (OPENAI_API_KEY)."
        )


def read_key(name: str) -> str:
    """The key, or a placeholder: servers of one's own need none. It is hidden in all that is shown from now on. Raises
    ConfigError."""
    key = os.environ.get(name, "").strip()
    if not key.isascii() or not key.isprintable():
        raise ConfigError(
            f"The environment variable {name} holds characters that no key has (only printable ASCII can be sent). Set "
            "it again, or name another one with answerer.key_env."
        )
    hide(key)
    return key or "none-needed"
