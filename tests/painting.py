"""A server that generates images by OpenAI's protocol on loopback, out of any function that paints."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field
from loopback import Handler
from PIL import Image

from srum_core.protocols import ImageGenerator

Paint = Callable[[str, int, dict[str, Any]], Image.Image]
"""An image for a prompt, a seed and the whole body of the request."""


def colours(prompt: str, seed: int, body: dict[str, Any]) -> Image.Image:
    """Four colours that follow from the prompt and the seed, in the size that is asked for."""
    digest = hashlib.sha256(f"{prompt} {seed}".encode()).digest()
    image = Image.frombytes("RGB", (2, 2), digest[:12])
    return image.resize(size_of(body), Image.Resampling.NEAREST)


def size_of(body: dict[str, Any]) -> tuple[int, int]:
    """What a request of either kind asks for, else 16 x 16."""
    if "size" in body:
        width, height = body["size"].split("x")
        return int(width), int(height)
    return body.get("width", 16), body.get("height", 16)


def in_base64(image: Image.Image, kind: str = "PNG") -> str:
    file = io.BytesIO()
    image.save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


@define(eq=False)
class Painter:
    """What a server does with a request: lists its one model, and paints. `Server.act` takes it."""

    model: str = "painter"
    root: str = ""
    paint: Paint = colours
    bodies: list[dict[str, Any]] = field(factory=list)
    """Of requests for images."""

    def __call__(self, handler: Handler) -> None:
        if handler.path.endswith("/models"):
            handler.reply(200, json.dumps({"data": [{"id": self.model, "root": self.root or self.model}]}))
            return
        body = handler.body
        self.bodies.append(body)
        if handler.path.endswith("/images/generations"):
            data = in_base64(self.paint(body["prompt"], body["seed"], body))
            handler.reply(200, json.dumps({"created": 0, "data": [{"b64_json": data}]}))
        else:
            data = in_base64(self.paint(body["messages"][0]["content"], body["seed"], body))
            part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
            handler.reply(200, json.dumps({"model": self.model, "choices": [{"message": {"content": [part]}}]}))


class ModelServer(Painter):
    """Serves an image generator, and loads another checkpoint when it is told to (POST /reload)."""

    def __init__(self, model: str, make: Callable[[Path | None], ImageGenerator]) -> None:
        super().__init__(model=model, paint=self._paint)
        self.make, self.generator = make, make(None)
        self.message: list[dict[str, Any]] = []
        self.called = ""
        """The name that it gives what it loads; "" = the one that it is told."""
        self.heeds = True
        """Whether it loads what it is told to."""
        self._one_at_a_time = threading.Lock()

    def __call__(self, handler: Handler) -> None:
        if not handler.path.endswith("/reload"):
            return super().__call__(handler)
        self.message.append(handler.body)
        if self.heeds:
            self.load(Path(handler.body["path"]), self.called or handler.body["name"])
        return handler.reply(200, self.called)

    def load(self, path: Path, name: str) -> None:
        self.generator, self.model = self.make(path), name

    def _paint(self, prompt: str, seed: int, body: dict[str, Any]) -> Image.Image:
        with self._one_at_a_time:
            return self.generator.generate([prompt], [seed])[0].image
