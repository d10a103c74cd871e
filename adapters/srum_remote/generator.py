"""An image generator on another machine: any server that generates images with OpenAI's protocol (vLLM-Omni, …)."""

from __future__ import annotations

import base64
import io
import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs

from srum_core.errors import AnswerError, ConfigError, clean
from srum_core.models.images import flatten
from srum_core.records import Answer, Sample
from srum_remote.cache import key_of
from srum_remote.client import Ask, Client, Served, list_models, read_models, sendable
from srum_remote.options import GeneratorOptions, option, read_urls

if TYPE_CHECKING:
    import openai
    from PIL.Image import Image

    from srum_remote.servers import Server
    from srum_remote.wire import Stop

PROBES = ("a red circle on a white background", "a forest by a lake under a blue sky")
"""Two prompts whose images must differ."""
SAME = 2.0
"""Largest mean difference, of 255 levels, between equal images of a server with varying rounding."""
FORMATS = ("PNG", "JPEG", "WEBP")
LARGEST = 2**26
"""Pixels of the largest image that is unpacked: a small reply can hold a thousand times as many bytes."""
UNREPEATABLE = "The server ignores seeds: the same prompt and seed give different images."
ALIKE = "The server ignores seeds: all seeds give the same image for a prompt."
_checked: dict[str, tuple[str, Sequence[str]]] = {}
"""Results of `_test_all` in this process, by all that they depend on: a preflight and its stage test once."""
log = logging.getLogger("srum")


class NoEffect(ConfigError):
    """LoRA weights that are sent with a request do not change its image."""


class RemoteGenerator(Client):
    """Generates by requests to servers, one for each image.

    Before the first image, every server is tested with four small requests (`check`)."""

    noun = "image"
    refused_kind = "prompts are recorded as failures"
    probe_kind = (
        "a harmless prompt: the prompt is not the cause but something in every request, such as the generator's model, "
        "size, steps, guidance or extra."
    )
    changes: Sequence[tuple[str, str | None]] = (
        ("response_format", None),
        ("output_format", None),
        ("modalities", None),
        ("seed", None),
    )
    options: GeneratorOptions

    def __init__(self, options: GeneratorOptions | None = None) -> None:
        super().__init__(options or GeneratorOptions())
        self._expected = self._version = self._reported = ""
        self._lora: dict[str, str] = {}
        """The LoRA folder that is sent with every request, with its name."""
        self._on_base = False
        """The servers list the base model, so the LoRA weights depend on that field."""
        self._servers.verify = self._verify
        self._all = self._servers.servers

    @classmethod
    def preflight(cls, options: GeneratorOptions) -> None:
        """Raise SrumError for servers that cannot be reached, or that lack what a run needs."""
        cls(attrs.evolve(options, retries=min(1, options.retries))).check()

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
        """One image per prompt; a prompt that the server refuses gives a failure, as long as those are few. Raises
        AnswerError, ConfigError."""
        if not prompts:
            return []
        note = self.check()
        asks = [self._prepare(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        return [self._sample(answer, note) for answer in self.ask(asks)]

    # ---- checks -----------------------------------------------------------------------------------------------------

    @property
    def load(self) -> str:
        """What a server must load before a later round of a run: "checkpoint", "lora" or "none"."""
        return self.options.load

    def follow(self, name: str, path: Path, version: str) -> str:
        """Sample from the served model `name` from now on, loaded from `path`; cached images of another `version` are
        not used. Returns instructions if the servers do not serve it, "" if they do."""
        self._expected, self._version = name, version
        self._lora = {"name": name, "path": str(path)} if self.options.load == "lora" else {}
        try:
            self._find_model()
        except (AnswerError, ConfigError) as error:
            return self._instructions(error, name, path)
        try:
            if self._on_base:
                self.check()
        except NoEffect as error:
            return self._instructions(error, name, path)
        except (AnswerError, ConfigError) as error:
            return str(error)
        if self._lora and not self._on_base:  # the served model has the weights: a server may refuse the field
            self.changes = (*type(self).changes, ("lora", None))
        return ""

    def _instructions(self, error: Exception, name: str, path: Path) -> str:
        """The error, with commands that serve what is at `path` as `name`."""
        base = shlex.quote(self.options.model or (self._model if self._on_base else "MODEL"))
        folder = shlex.quote(str(path))
        command = f"vllm serve {folder} --omni --served-model-name {name}"
        if self._lora:
            command = f"sglang serve --model-path {base} --lora-path {folder} --served-model-name {name}"
        ports = [urlsplit(server.where).port or 80 for server in self._servers.servers]
        commands = "".join(f"\n  {command} --port {port}" for port in ports)
        if self._lora:
            commands += f"\nor with vllm serve {base} --omni, which gets the folder with every request."
        return f"{error} Let it load {path} and serve it as {name}, for example with{commands}"

    def check(self) -> str:
        """The note for every image, such as that seeds are ignored. The first time, every server is tested.

        Raises ConfigError for a server that ignores prompts, AnswerError for one that returns no image or another size,
        or that cannot be reached. Of several servers, those that fail like that, except by size, are left out."""
        self._find_model()
        urls = read_urls(self.options.url or os.environ.get("OPENAI_BASE_URL", ""), self.options.kind)
        key = key_of({"urls": urls, "on base": self._on_base, **self._prepare(PROBES[0], 1).asked})
        if key not in _checked:
            _checked[key] = self._test_all(urls)
        note, absent = _checked[key]
        self._servers.servers = [server for server in self._all if server.where not in absent]
        return note

    def _test_all(self, urls: Sequence[str]) -> tuple[str, Sequence[str]]:
        """The first note of a server, and the servers that are left out."""
        notes, absent = [], dict[str, AnswerError]()
        for url in urls:
            alone = attrs.evolve(
                self.options, url=url, model=self._model, cache="off", retries=min(1, self.options.retries)
            )
            single = RemoteGenerator(alone)
            single._lora, single._on_base, single.changes = self._lora, self._on_base, self.changes
            try:
                notes.append(single._test(url))
            except AnswerError as unreachable:
                if len(urls) == 1 or getattr(unreachable.__cause__, "final", True):
                    raise
                absent[url] = unreachable
        if not notes:
            raise next(iter(absent.values()))
        for error in absent.values():
            log.warning("%s It is left out: the other servers are used instead.", error)
        return next(filter(None, notes), ""), list(absent)

    def _test(self, url: str) -> str:
        """Two prompts with one seed, one prompt with one seed twice, with another seed, and without LoRA weights."""
        asks = [self._prepare(PROBES[0], 1)] * 2 + [self._prepare(PROBES[1], 1), self._prepare(PROBES[0], 2)]
        if self._on_base:
            asks.append(attrs.evolve(asks[0], fields={k: v for k, v in asks[0].fields.items() if k != "lora"}))
        answers = self.ask([attrs.evolve(ask, key=f"test {number}") for number, ask in enumerate(asks)])
        if refused := next((each.refused for each in answers if each.refused), ""):
            raise AnswerError(f"{refused} It was to generate a test image, such as of “{PROBES[0]}”.")
        first, again, other, reseeded, *plain = map(_decoded, answers)
        noise = _difference(first, again)
        least = SAME if noise else 0.0
        if noise <= SAME and _difference(first, other) <= least:
            raise ConfigError(
                f'The server at {url} ignores prompts: with one seed, "{PROBES[0]}" and "{PROBES[1]}" give the same '
                "image. vLLM-Omni did so with BAGEL (its issues 1702 and 1791): use another version of it, or another "
                "server."
            )
        if plain and (noise > SAME or _difference(first, plain[0]) <= least):
            raise NoEffect(
                f"The server at {url} serves the base model {clean(self._model)}, and the field lora of a request does "
                "not change its images."
            )
        if noise > SAME:
            note = UNREPEATABLE
        else:
            note = ALIKE if _difference(first, reseeded) <= least else ""
        if note:
            log.warning("%s (%s) It is noted with every image.", note, url)
        return note

    def _find_model(self) -> None:
        """List the served models, every time: a server may have been restarted with another model.

        Raises ConfigError where the model is not served."""
        name = self._expected or self._model
        if not name:
            self._model = self._reported = self._only_model()
            return
        try:
            lists = self._served()
        except AnswerError:
            if self._expected:
                raise
            self._model = name  # the server cannot list its models
            return
        found = [self._listed(models, name) for models in lists.values()]
        self._on_base = bool(self._lora) and None in found
        if self._on_base:
            found = [self._base(models) for models in lists.values()]
        for (where, models), match in zip(lists.items(), found, strict=True):
            if match is None:
                raise self._wrong_model(where, models)
            self._model = self._reported = match.name

    def _verify(self, server: Server, stop: Stop) -> None:
        """Raise ConfigError if a server has returned with another model: not all compare the name in a request."""
        if not self._reported:
            return  # it cannot list its models
        models = server.wire.attempt(list_models, read_models, stop)
        match = self._base(models) if self._on_base else self._listed(models, self._expected or self._model)
        if match is None:
            raise self._wrong_model(server.where, models)

    def _wrong_model(self, where: str, models: Sequence[Served]) -> ConfigError:
        names = ", ".join(clean(each.name, 200) for each in models[:20]) or "nothing"
        advice = "" if self._expected else f" Set {option(self.options.kind, 'model')} to one that it serves."
        return ConfigError(
            f"The server at {where} serves {names}, but the model {clean(self._expected or self._model)} is to "
            f"generate the images.{advice}"
        )

    def _listed(self, models: Sequence[Served], name: str) -> Served | None:
        return next((each for each in models if _is(each, name, bool(self._expected))), None)

    def _base(self, models: Sequence[Served]) -> Served | None:
        """The model that LoRA weights are applied to: the option `model`, or else the only one."""
        if self.options.model:
            return next((each for each in models if each.name == self.options.model), None)
        return models[0] if len(models) == 1 else None

    # ---- requests and replies ---------------------------------------------------------------------------------------

    def _prepare(self, prompt: str, seed: int) -> Ask:
        o, prompt = self.options, sendable(prompt)
        width, height = o.size
        sampling = {
            "num_inference_steps": o.steps,
            "guidance_scale": o.guidance,
            "negative_prompt": o.negative_prompt or None,
        }
        fields: dict[str, Any] = {name: value for name, value in sampling.items() if value is not None}
        fields["seed"] = seed
        if o.api == "images":
            fields |= {"n": 1, "response_format": "b64_json", "output_format": "png"}  # SGLang's default is JPEG
            fields |= {"size": f"{width}x{height}"} if width and height else {}
        else:
            fields |= {"modalities": ["image"]}
            fields |= {"width": width, "height": height} if width and height else {}
        asked = {"model": self._model, "version": self._version, "prompt": prompt, "extra": o.extra, **fields}
        fields |= {"lora": self._lora} if self._lora else {}  # not in `asked`: `version` is, and a run may be moved
        task = f'generate an image of "{clean(prompt, 100)}"'
        return Ask(task, f'"{clean(prompt, 100)}"', prompt, fields, asked, key_of(asked))

    def _create(self, ask: Ask, body: Mapping[str, Any], client: openai.OpenAI) -> Any:
        more = {**body, **self.options.extra}
        if self.options.api == "images":
            return client.images.with_raw_response.generate(model=self._model, prompt=ask.content, extra_body=more)
        return client.chat.completions.with_raw_response.create(
            model=self._model, messages=[{"role": "user", "content": ask.content}], extra_body=more
        )

    def _harmless(self, ask: Ask) -> Ask:
        return attrs.evolve(ask, content=PROBES[0])

    def _read(self, reply: Any) -> Answer:
        """An image in base64, decoded once as a test. Raises ValueError, and RequestFailed for another size than
        requested."""
        data = _from_images(reply) if self.options.api == "images" else _from_chat(reply)
        model = reply.get("model")
        model = clean(model, 200) if isinstance(model, str) and model else self._reported
        if self._expected and model != self._reported and not _is(Served(model), self._expected, True):
            raise self._wire.RequestFailed(
                f"answered with the model {model}, where {clean(self._expected)} was requested",
                "Check which model it has loaded.",
                final=True,
            )
        answer = Answer(data, f"{model} with {self._lora['name']}" if self._on_base else model)
        with _opened(answer) as image:
            size = image.size
        if all(self.options.size) and size != self.options.size:
            expected, actual = ("x".join(map(str, each)) for each in (self.options.size, size))
            raise self._wire.RequestFailed(
                f"sent an image of {actual} pixels where {expected} were requested",
                f"Set {option(self.options.kind, 'size')} to a size that it generates.",
                final=True,
            )
        _decoded(answer)
        return answer

    def _sample(self, answer: Answer, note: str) -> Sample:
        if answer.refused:
            from PIL import Image as pil

            width, height = self.options.size
            blank = pil.new("RGB", (width or 64, height or 64))
            return Sample(blank, failure=answer.refused, model=clean(self._model, 200))
        return Sample(_decoded(answer), model=answer.model, note=note)


def _is(model: Served, name: str, also_path: bool) -> bool:
    """Whether this is the model; with `also_path` its name may be the folder that it was loaded from."""
    names = [model.name, model.root] if also_path else [model.name]
    return name in names or (also_path and name in [PurePath(each).name for each in names])


def _from_images(reply: Any) -> str:
    """The image of a reply of /images/generations, in base64. Raises ValueError."""
    try:
        image = reply["data"][0]
        data = image.get("b64_json")
    except (TypeError, KeyError, IndexError, AttributeError):
        raise ValueError("JSON that is not a generated image") from None
    if isinstance(data, str) and data:
        return data
    if image.get("url"):
        raise ValueError("the URL of an image, although the image itself was requested (b64_json)")
    raise ValueError("a reply without an image")


def _from_chat(reply: Any) -> str:
    """The first image in a chat completion, in base64. Raises ValueError.

    vLLM-Omni gives every stage of a model its own choice: BAGEL's text can come before its image."""
    try:
        contents = [choice["message"]["content"] for choice in reply["choices"]]
        parts = [part for content in contents if isinstance(content, list) for part in content]
        urls = [part["image_url"]["url"] for part in parts if part.get("type") == "image_url"]
    except (TypeError, KeyError, AttributeError):
        raise ValueError("JSON that is not a chat completion") from None
    if not urls:
        raise ValueError("a chat completion without an image")
    kind, marker, data = str(urls[0]).partition(";base64,")
    if not marker or not kind.startswith("data:image/"):
        raise ValueError("an image that is not a data URL")
    return data


def _decoded(answer: Answer) -> Image:
    """The image in RGB. Raises ValueError for invalid data."""
    with _opened(answer) as image:
        return flatten(image)


@contextmanager
def _opened(answer: Answer) -> Iterator[Image]:
    """The image, not yet unpacked. Raises ValueError for invalid data, also inside."""
    from PIL import Image as pil

    try:
        with pil.open(io.BytesIO(base64.b64decode(answer, validate=True)), formats=FORMATS) as image:
            if image.width * image.height > LARGEST:
                raise ValueError(f"it has {image.width}x{image.height} pixels, more than {LARGEST}")
            yield image
    except Exception as error:  # decoders raise many exceptions for truncated, huge or other data
        raise ValueError(f"an image that cannot be decoded ({clean(error, 100)})") from error


def _difference(one: Image, other: Image) -> float:
    """Mean over pixels and channels, of 255 levels; 255 for images of different sizes."""
    from PIL import ImageChops, ImageStat

    if one.size != other.size:
        return 255.0
    means = ImageStat.Stat(ImageChops.difference(one, other)).mean
    return float(sum(means) / len(means))
