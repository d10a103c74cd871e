"""Where servers are and what opens them, as settings and the environment say. A key is never shown."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from srum_core.errors import ConfigError


def read_urls(setting: str) -> dict[str, str]:
    """URLs by how they may be shown, out of one or several with commas in between. Raises ConfigError."""
    urls = [each.strip() for each in setting.split(",")]
    shown = [_shown(url) for url in urls]
    if twice := next((each for each in shown if shown.count(each) > 1), None):
        raise ConfigError(
            f"answerer.url names {twice} twice. Name every server once; answerer.concurrency is for each of them."
        )
    return dict(zip(shown, urls, strict=True))


def _shown(url: str) -> str:
    """The URL as it may be shown: without user, password and query. Raises ConfigError for what is no URL."""
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
    if not whole:
        raise ConfigError(
            "The answerer remote cannot use its URL (answerer.url, or the environment variable OPENAI_BASE_URL): it "
            'should look like "http://localhost:8000/v1".'
        )
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def read_key(name: str) -> str:
    """The key, or a placeholder: servers of one's own need none. Raises ConfigError, without showing it."""
    key = os.environ.get(name, "").strip()
    if not key.isascii() or not key.isprintable():
        raise ConfigError(
            f"The environment variable {name} holds characters that no key has (only printable ASCII can be sent). Set "
            "it again, or name another one with answerer.key_env."
        )
    return key or "none-needed"
