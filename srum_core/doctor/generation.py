"""Check generation and denoising: seeds and prompts matter, other images of a batch do not."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from srum_core.doctor.findings import Finding
from srum_core.doctor.subject import Subject

SEEDS, WORDS, NEIGHBOURS = "seeds", "words", "neighbours"
SAME = 0.1
"""Two images count as the same if they differ by less than this share of what another seed changes."""


def check(subject: Subject) -> list[Finding]:
    text = next((each for each in subject.texts if each), "a picture")
    other = next((each for each in subject.texts if each and each != text), f"not {text}")
    first, repeated, reseeded, reworded = subject.draw([text, text, text, other], [0, 0, 1, 0])
    (alone,) = subject.draw([text], [0])
    seeds, words = _seeds(first, repeated, alone, reseeded), _words(subject, first, reworded, text, other)
    return [seeds, words, _neighbours(subject)]


def _seeds(first: Image.Image, repeated: Image.Image, alone: Image.Image, reseeded: Image.Image) -> Finding:
    scale = difference(first, reseeded)
    if scale == 0:
        text = "Two seeds give the same image: sample the first noise from each image's own seed."
        return Finding(SEEDS, "wrong", text)
    fix = "sample only from a torch.Generator per image, seeded by the image's seed."
    for image, words in ((repeated, "generated twice in one call"), (alone, "generated again, alone")):
        off = difference(first, image) / scale
        if off >= SAME:
            result = f"One prompt and seed {words} gives images that differ by {off:.0%} of what another seed changes"
            return Finding(SEEDS, "wrong", f"{result}: {fix}")
    return Finding(SEEDS, "fine", "The same prompt and seed give the same image, another seed another one.")


def _words(subject: Subject, first: Image.Image, reworded: Image.Image, text: str, other: str) -> Finding:
    clean = subject.encode(subject.images[:1])
    noise = torch.randn(clean[0].shape, generator=torch.Generator().manual_seed(0))
    noisy = [(clean[0] + noise) / 2] * 2
    with_text, without_text = subject.velocity(noisy, torch.full((2,), 0.5), [text, None])
    if torch.equal(with_text, without_text):
        message = "The velocity is the same with a prompt and without: does the denoiser use its condition?"
        return Finding(WORDS, "wrong", message)
    if difference(first, reworded) == 0:
        message = f'"{text}" and "{other}" give the same image: does generate use its prompts?'
        return Finding(WORDS, "wrong", message)
    return Finding(WORDS, "fine", "Other prompts give another image and another velocity.")


def _neighbours(subject: Subject) -> Finding:
    """Compare an image's velocity alone and in a batch with another image, prompt and time."""
    clean = subject.encode((subject.images * 2)[:2])
    texts = (subject.texts * 2)[:2]
    time = torch.tensor([0.5, 0.8])
    noise = [torch.randn(x.shape, generator=torch.Generator().manual_seed(i)) for i, x in enumerate(clean)]
    noisy = [(1 - t) * x + t * eps for t, x, eps in zip(time, clean, noise, strict=True)]
    in_batch = subject.velocity(noisy, time, texts)[0]
    alone = subject.velocity(noisy[:1], time[:1], texts[:1])[0]
    off = float((in_batch - alone).norm() / alone.norm().clamp(min=1e-12))
    coarse = any(p.dtype in (torch.bfloat16, torch.float16) for p in subject.model.denoiser.parameters())
    if off > (0.1 if coarse else 0.01):
        fix = "images of a batch must not affect each other (attention mask, padding, normalisation)."
        return Finding(
            NEIGHBOURS, "wrong", f"An image's velocity is {off:.0%} off in a batch with another image: {fix}"
        )
    return Finding(NEIGHBOURS, "fine", "An image's velocity does not depend on what else is in the batch.")


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean absolute difference in grey levels; 255 for images of different sizes."""
    if one.size != other.size:
        return 255.0
    a, b = (np.asarray(image.convert("RGB"), dtype=np.float32) for image in (one, other))
    return float(np.abs(a - b).mean())
