"""The paper's rules (§3.2), applied to the numbers parsed from a judge's answer.

A region's score may break the keyword rule, which acts on scores above the neutral band, or meet the penalty, which
acts on scores below 0. No score is both, so their order does not matter. The whole image's score has the neutral
band only. A rule that changes a number leaves a sentence in `Score.rules`, and the number as it was in
`Score.stated`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from importlib.resources import files
from itertools import pairwise

from attrs import evolve

from srum_core.records import Score
from srum_judges.options import RuledOptions
from srum_judges.rules.keywords import Synonyms, comparable, keywords, names, readable

Rule = Callable[[str, Score], Score]
"""From a prompt and a score to the score that counts."""
KNOTS = ((-1.0, -0.9), (-0.3, -0.5), (0.0, 0.0), (1.0, 1.0))
"""(stated, counts) of the penalty, from left to right."""


def regional(options: RuledOptions) -> Rule:
    """The rules for the score of a region. Raises ConfigError for a file of synonyms that cannot be used."""
    known, band = Synonyms.load(options.synonyms), options.neutral_band  # read it even where the rule is off

    def rule(prompt: str, score: Score) -> Score:
        if options.penalty and score.value < 0:
            value = penalised(score.value)
            return _changed(score, value, f"Non-linear penalty: {score.value:g} counts as {value:.3g}.")
        if not options.grounded or score.value <= band:
            return score
        if not comparable(prompt, score.label, known) or names(prompt, score.label, known):
            return score
        seen = f'"{score.label}" is nothing' if score.label else "the object is not named, so it is nothing"
        named = ", ".join(keywords(prompt, known))
        why = f"Semantic grounding: {seen} that the prompt names ({named}), so at most {band:g}."
        return _changed(score, band, why)

    return rule


def layout(prompt: str, score: Score, band: float) -> Score:
    """The rule for the score of the whole image."""
    if abs(score.value) <= band or not readable(prompt) or spatial_directives(prompt):
        return score
    value = max(-band, min(band, score.value))
    return _changed(score, value, f"Neutral band: the prompt has no spatial directive, so within ±{band:g}.")


def _changed(score: Score, value: float, rule: str) -> Score:
    return score if value == score.value else evolve(score, value=value, stated=score.value, rules=(rule,))


def penalised(value: float) -> float:
    """Map a score in [-1, 1]: linear interpolation between the knots (paper §3.2, the non-linear penalty).

    People forgive a small flaw and stumble over a large one, so the paper maps severe distortions to -0.9 … -0.5. It
    gives the range, not the curve; this is the simplest that does it. A score that is not negative stays as it is,
    -0.3 and worse land in the range, and what lies between falls off steeply: there is no jump, so a judge's rounding
    decides nothing, and a worse score never counts for more than a better one. Below -0.77 the number is milder than
    stated. It is for regions: the paper applies it to the local judgement.
    """
    assert -1 <= value <= 1
    if value >= 0:
        return value
    left, low, right, high = next((*one, *other) for one, other in pairwise(KNOTS) if value <= other[0])
    return low + (value - left) * (high - low) / (right - left)


# ---- spatial directives ----------------------------------------------------------------------------------------------

_TABLE = tomllib.loads((files("srum_judges.rules") / "layout_rule.toml").read_text(encoding="utf-8"))
_STRAIGHT = str.maketrans("“”„‟’‘‐‑‒–—", '""""' + "''" + "-----")


def _expand(table: str) -> str:
    """A regular expression for any of the alternatives, parts put in."""
    alternatives = "|".join(table.strip("\n").split("\n"))
    return "(?:" + re.sub(r"<(\w+)>", lambda part: _expand(_TABLE["parts"][part[1]]), alternatives) + ")"


_IDIOM, _DIRECTIVE = (re.compile(rf"(?<![\w']){_expand(_TABLE[name])}(?![\w'])") for name in ("idioms", "directives"))


def spatial_directives(text: str) -> list[str]:
    """The spatial directives in a prompt, in order, lower case, hyphens as spaces; [] = none, as in "an image of a
    tree" (paper §3.2).

    `layout_rule.toml` lists the directives, and idioms that are none; these are taken out first, like what stands in
    double quotes (words to be written in the image). In doubt a phrase counts: a word too many leaves a score as the
    judge stated it, one too few takes it away."""
    words = " ".join(text.translate(_STRAIGHT).lower().replace("-", " ").split())
    if not re.fullmatch(r'"[^"]*"\W*', words):  # all of it in quotes: a quoted prompt, not words in the image
        words = re.sub(r'"[^"]*"', "·", words)
    return _DIRECTIVE.findall(_IDIOM.sub("·", words))
