"""The options of models on servers, and the accepted URLs. Light: no torch, no PIL, no openai."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from attrs import field, frozen, validators

from srum_core.errors import ConfigError
from srum_core.options import SPEED

_positive = validators.gt(0)
_at_least_0: Any = validators.ge(0)
_a_day: Any = [validators.gt(0), validators.le(86_400)]
URL = "http://localhost:8000/v1"
"""The example in messages."""


def read_urls(setting: str, kind: str) -> list[str]:
    """Split one or several comma-separated URLs; they contain no secret. Raises ConfigError.

    `kind`: of the component with the setting."""
    urls = [each.strip() for each in setting.split(",")]
    for url in urls:
        _check_url(url, kind)
    if twice := next((each for each in urls if urls.count(each) > 1), None):
        raise ConfigError(
            f"{option(kind, 'url')} names {twice} twice. Name every server once; {option(kind, 'concurrency')} is for "
            "each of them."
        )
    return urls


def _check_url(url: str, kind: str) -> None:
    """Raise ConfigError, without showing the URL, for an invalid URL or one that contains a secret."""
    where = f"{option(kind, 'url')}, or the environment variable OPENAI_BASE_URL"
    if not url:
        raise ConfigError(
            f'The {kind} remote has no server: set {option(kind, "url")}, such as "{URL}", or the '
            "environment variable OPENAI_BASE_URL."
        )
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or not url.isprintable():
        raise ConfigError(f'The {kind} remote cannot use its URL ({where}): it should have the form "{URL}".')
    if any(each in url for each in "@?#"):  # also where the password contains a slash
        raise ConfigError(
            f"The URL of a server ({where}) must not contain a user, a password or a query: it is written into "
            "run.toml and the report. Put the key into the environment variable that "
            f"{option(kind, 'key_env')} names (OPENAI_API_KEY)."
        )


def _usable_url(options: ServerOptions, attribute: Any, value: str) -> None:
    """Check before anything is requested or written."""
    try:
        if value:
            read_urls(value, options.kind)
    except ConfigError as error:
        raise ValueError(f"'{attribute.name}' cannot be used: {error}") from error


def _whole_size(options: GeneratorOptions, attribute: Any, value: tuple[int, int]) -> None:
    if min(value) < 0 or any(value) != all(value):
        raise ValueError(f"'{attribute.name}' should be a width and a height above 0, or [0, 0]")


_SECRET = re.compile(r".*(api_?key|authorization|password|secret|bearer|headers).*|(auth_?|access_?)?token", re.I)


def _no_secret(_: Any, attribute: Any, value: Any) -> None:
    """Check at any depth: these fields are sent with every request, and also written to disk."""
    for key, inside in value.items() if isinstance(value, dict) else ((None, each) for each in value):
        if isinstance(key, str) and _SECRET.fullmatch(key.replace("-", "_")):
            raise ValueError(
                f"'{attribute.name}' must not contain {key}: settings are written to disk. Put the key into the "
                "environment variable that key_env names; no other header is sent."
            )
        if isinstance(inside, dict | list):
            _no_secret(_, attribute, inside)


def _name_of_variable(_: Any, attribute: Any, value: str) -> None:
    if not re.fullmatch(r"[A-Za-z_]\w*", value, re.ASCII):
        raise ValueError(
            f"'{attribute.name}' should be the name of an environment variable, such as OPENAI_API_KEY. "
            "If it is the key itself: settings are written to disk, so put it into that variable."
        )


@frozen(kw_only=True)
class ServerOptions:
    """The servers, and how requests are sent."""

    kind: ClassVar[str]
    """Of component."""
    model: str = ""
    """The served model's name; empty = the only one that the server lists."""
    url: str = field(default="", validator=_usable_url, metadata=SPEED)
    """Base URL up to and with /v1, without user, password and query; several servers of the same
    model, with commas in between, are used in turn. Empty = the environment variable OPENAI_BASE_URL."""
    key_env: str = field(default="OPENAI_API_KEY", validator=_name_of_variable, metadata=SPEED)
    """Name of the environment variable with the key. The key itself is never a setting: those are written to disk."""
    concurrency: int = field(default=8, validator=_positive, metadata=SPEED)
    """Concurrent requests, per server and process."""
    timeout: float = field(default=300.0, validator=_a_day, metadata=SPEED)
    """Seconds for one request, from connecting to the last byte; at most a day."""
    retries: int = field(default=5, validator=_at_least_0, metadata=SPEED)
    """How often a request is sent again after a lost connection, a timeout, 408, 429 or 5xx: with growing pauses, or to
    the next server."""
    max_reply: int = field(default=4_000_000, validator=_positive, metadata=SPEED)
    """Largest accepted reply, in bytes."""
    cache: str = field(default="", metadata=SPEED)
    """Folder of replies by the hash of the request, so that none is sent twice, also after an interruption;
    empty = a folder of srum in the user's cache folder, "off" = none."""
    extra: dict[str, Any] = field(factory=dict, hash=False, validator=_no_secret)
    """More fields for the body of every request, such as {top_p = 0.9}."""


@frozen(kw_only=True)
class AnswererOptions(ServerOptions):
    """Answerer `remote`: a server with OpenAI's chat protocol (vLLM, SGLang, `transformers serve`, …)."""

    kind: ClassVar[str] = "answerer"
    converses: bool = True
    """Send earlier turns about an image as messages of a conversation; false = written into one message."""


@frozen(kw_only=True)
class GeneratorOptions(ServerOptions):
    """Image generator `remote`: a server that generates images (vLLM-Omni, SGLang-Diffusion, …)."""

    kind: ClassVar[str] = "generator"
    api: Literal["images", "chat"] = "images"
    """The endpoint: /images/generations, or /chat/completions with the image in the message of its reply."""
    size: tuple[int, int] = field(default=(0, 0), validator=_whole_size)
    """(width, height) of the images, in pixels; [0, 0] = the adapter's in training, otherwise the server's own."""
    steps: int | None = field(default=None, validator=validators.optional(_positive))
    """Steps of the sampler (num_inference_steps); not set = the server's own."""
    guidance: float | None = None
    """Scale of classifier-free guidance (guidance_scale); not set = the server's own."""
    negative_prompt: str = ""
    """The prompt that guidance moves away from; empty = not sent."""
    timeout: float = field(default=600.0, validator=_a_day, metadata=SPEED)
    """Seconds for one request, from connecting to the last byte; at most a day."""
    max_reply: int = field(default=64_000_000, validator=_positive, metadata=SPEED)
    """Largest accepted reply, in bytes."""
    load: Literal["checkpoint", "lora", "none"] = "checkpoint"
    """What the server must load before each later round of a training run: the model that was trained so far, whole
    (checkpoint); the LoRA folder of the round before, on the base model (lora, for two rounds; it is also sent with
    every request); or nothing, so that all rounds sample from the model that is served (none)."""


def option(kind: str, name: str) -> str:
    """An option's name in messages. A generator is set as `generator` in training, as `adapter` in an evaluation."""
    return f"{kind}.{name}" if kind == "answerer" else f"the {kind}'s option {name}"
