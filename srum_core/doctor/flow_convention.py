"""Check sign, time and scale: find the convention that explains the denoiser's output.

An image is noised to a few times, and the model's velocity compared with noise - clean. The share explained,
1 - |velocity - target|^2 / |target|^2, is near 1 for trained weights under the right convention. Every
other convention that adapters get wrong is tried too; the one that explains most shows what to fix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from attrs import frozen
from torch import Tensor

from srum_core.doctor.findings import Finding
from srum_core.doctor.subject import Subject

SIGN, SCALE = "sign and time", "scale of latents"
TIMES = (0.2, 0.4, 0.6, 0.8)
EXPLAINED = 0.4
"""Share from which on a convention counts as explaining something; a straight line explains up to about 0.25."""
CLEARLY = 0.6
"""Another convention is better if it leaves less than this share of what ours leaves unexplained."""

OUTPUTS: Mapping[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "noise - clean": (lambda clean, noise: noise - clean, ""),
    "clean - noise": (
        lambda clean, noise: clean - noise,
        "The velocity points from the noise to the image (clean - noise): negate it in the adapter's denoiser.",
    ),
    "the noise": (
        lambda clean, noise: noise,
        "The denoiser gives the noise, not a velocity: return (noise - noisy) / (1 - t) in the adapter.",
    ),
    "the clean latent": (
        lambda clean, noise: clean,
        "The denoiser gives the clean latent, not a velocity: return (noisy - clean) / t in the adapter.",
    ),
}
"""By possible output of the denoiser: (clean, noise) -> that output, and the fix."""
CLOCKS: Mapping[str, tuple[Callable[[float], float], str]] = {
    "t": (lambda t: t, ""),
    "1 - t": (
        lambda t: 1 - t,
        "Time runs in the wrong direction (the model takes 1 for a clean image): pass 1 - t in the adapter.",
    ),
    "1000 t": (lambda t: 1000 * t, "The model counts time up to 1000: pass 1000 * t in the adapter."),
    "t / 1000": (
        lambda t: t / 1000,
        "The adapter passes time times 1000, but this model takes it in [0, 1]: pass t unchanged.",
    ),
    "1000 (1 - t)": (
        lambda t: 1000 * (1 - t),
        "The model counts time up to 1000, and 1000 is a clean image: pass 1000 * (1 - t) in the adapter.",
    ),
}
"""By the time that the model expects in place of t: a function to that time, and the fix."""


@frozen
class Convention:
    output: str = "noise - clean"
    clock: str = "t"
    standardised: bool = False
    """Latents brought to mean 0 and standard deviation 1 first."""


OURS = Convention()


@frozen
class Fit:
    """How well a convention explains the velocity, means over `TIMES`."""

    share: float
    alignment: float
    """Cosine of velocity and target."""
    length: float
    """|velocity| / |target|."""


def check(subject: Subject) -> list[Finding]:
    """Check sign, time and scale; set `subject.trained`."""
    latents = subject.encode(subject.images)
    if not all(bool(latent.isfinite().all()) for latent in latents):
        text = "Some latents are no finite numbers: does encode get pixels in the range that it expects?"
        return [Finding(SCALE, "wrong", text)]
    fits = explain(subject, latents)
    if any(fit.share != fit.share for fit in fits.values()):
        text = "The denoiser gives numbers that are not finite: does it run in 16 bits where it needs 32?"
        return [Finding(SIGN, "wrong", text)]
    subject.trained = max(fit.share for fit in fits.values()) >= EXPLAINED or _wrong_length(fits[OURS])
    return [_sign(fits), _scale(latents, fits, bool(subject.trained))]


def explain(subject: Subject, latents: Sequence[Tensor]) -> dict[Convention, Fit]:
    """Fit every output with every clock; for the scale, also every output with standardised latents."""
    fits: dict[Convention, Fit] = {}
    everything = torch.cat([latent.flatten() for latent in latents])
    mean, deviation = everything.mean(), everything.std().clamp(min=1e-6)
    standard = [(latent - mean) / deviation for latent in latents]
    for grids, clock, standardised in [*((latents, clock, False) for clock in CLOCKS), (standard, "t", True)]:
        trials = list(_try(subject, grids, clock))
        for output in OUTPUTS:
            pairs = [(velocity, targets[output]) for velocity, targets in trials]
            fits[Convention(output, clock, standardised)] = _fit(pairs)
    return fits


def _try(subject: Subject, clean: Sequence[Tensor], clock: str) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield, for each time, the denoiser's output and the target of each kind of output, flat over all images."""
    tell = CLOCKS[clock][0]
    for number, time in enumerate(TIMES):
        rng = torch.Generator().manual_seed(number)
        noise = [torch.randn(x.shape, generator=rng) for x in clean]
        noisy = [(1 - time) * x + time * eps for x, eps in zip(clean, noise, strict=True)]
        velocity = subject.velocity(noisy, torch.full((len(noisy),), tell(time)), subject.texts)
        x, eps = (torch.cat([each.flatten() for each in grids]) for grids in (clean, noise))
        yield torch.cat([v.flatten() for v in velocity]), {name: make(x, eps) for name, (make, _) in OUTPUTS.items()}


def _fit(pairs: Sequence[tuple[Tensor, Tensor]]) -> Fit:
    shares, alignments, lengths = [], [], []
    for velocity, target in pairs:
        size = target.norm().clamp(min=1e-12)
        shares.append(1 - float((velocity - target).norm() / size) ** 2)
        alignments.append(float(velocity @ target / (velocity.norm().clamp(min=1e-12) * size)))
        lengths.append(float(velocity.norm() / size))
    return Fit(*(sum(values) / len(values) for values in (shares, alignments, lengths)))


def _sign(fits: Mapping[Convention, Fit]) -> Finding:
    best = max(fits, key=lambda convention: fits[convention].share)
    ours, most = fits[OURS].share, fits[best].share
    if most < EXPLAINED:
        return _nothing(fits[OURS], most)
    correction = " ".join(each for each in (OUTPUTS[best.output][1], CLOCKS[best.clock][1]) if each)
    observation = (
        f"as it is, {_percent(ours)} of noise - clean is explained; with {best.output} at {best.clock} as what the "
        f"model means, {most:.0%}"
    )
    if correction and 1 - most < CLEARLY * (1 - ours):
        return Finding(SIGN, "wrong", f"{correction} ({observation[0].upper()}{observation[1:]}.)")
    if ours >= EXPLAINED:
        return Finding(SIGN, "fine", f"The velocity explains {ours:.0%} of noise - clean.")
    if not correction:
        return Finding(SIGN, "fine", f"The velocity explains {most:.0%} of noise - clean, once the scale is fixed.")
    return Finding(SIGN, "undecided", f"Sign and time cannot be determined: {observation}.")


def _nothing(ours: Fit, most: float) -> Finding:
    if _wrong_length(ours):
        message = f"The velocity points the right way, but is {ours.length:.2g} times as long as noise - clean"
        return Finding(SIGN, "wrong", f"{message}: is the model's output scaled, or a step size left in it?")
    message = f"The velocity explains nothing under any convention ({_percent(most)} at best): untrained weights?"
    return Finding(SIGN, "undecided", f"{message} Sign and time cannot be determined.")


def _wrong_length(fit: Fit) -> bool:
    return fit.share < EXPLAINED and fit.alignment**2 > CLEARLY


def _scale(latents: Sequence[Tensor], fits: Mapping[Convention, Fit], trained: bool) -> Finding:
    cells = torch.cat([latent.flatten(0, 1) for latent in latents])
    deviation = float(cells.std())
    channels = cells.std(dim=0)
    low, high = float(channels.min()), float(channels.max())
    observation = (
        f"Latents have a mean of {float(cells.mean()):.2g} and a standard deviation of {deviation:.2g} "
        f"({low:.2g} to {high:.2g} by channel)"
    )
    raw = max(fit.share for convention, fit in fits.items() if not convention.standardised)
    standard = max(fit.share for convention, fit in fits.items() if convention.standardised)
    if standard >= EXPLAINED and 1 - standard < CLEARLY * (1 - raw):
        fix = "is the autoencoder's scale (and shift) applied in encode?"
        proof = f"(Brought to 0 and 1, the model explains {standard:.0%} of the target, not {_percent(raw)}.)"
        return Finding(SCALE, "wrong", f"{observation}: {fix} {proof}")
    if not trained and not 0.5 < deviation < 2:
        message = "is the autoencoder's scale applied? Weights that explain nothing cannot show it."
        return Finding(SCALE, "undecided", f"{observation}: {message}")
    return Finding(SCALE, "fine", f"{observation}.")


def _percent(share: float) -> str:
    return "nothing" if share <= 0 else f"{share:.0%}"
