"""The functions of srum_tiny.yaml."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw


def images(doc: dict[str, Any]) -> list[Image.Image]:
    image = Image.new("RGB", (32, 32), "white")
    ImageDraw.Draw(image).ellipse((10, 10, 21, 21), fill=doc["colour"])
    return [image]


def question(doc: dict[str, Any], kwargs: dict[str, Any] | None = None) -> str:
    return "Is there a red circle?"


def results(doc: dict[str, Any], answers: list[str]) -> dict[str, float]:
    return {"said_something": float(bool(answers[0].strip()))}
