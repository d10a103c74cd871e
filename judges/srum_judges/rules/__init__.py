"""What a judge's stated number becomes: the paper's rules (§3.2) on top of what was read out of the answer.

A region's score may break the keyword rule, which acts on scores above the neutral band, or meet the penalty, which
acts on scores below 0. No score is both, so their order does not matter. The whole picture's score has the neutral
band only. A rule that changes a number leaves a sentence in `Score.rules`, and the number as it was in
`Score.stated`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import evolve

from srum_core.records import Score
from srum_judges.options import RuledOptions
from srum_judges.rules.keywords import Synonyms, comparable, keywords, names, readable
from srum_judges.rules.layout_rule import spatial_directives
from srum_judges.rules.penalty import penalised

Rule = Callable[[str, Score], Score]
"""From a prompt and a score to the score that counts."""


def regional(options: RuledOptions) -> list[Rule]:
    """The rules for regions. Raises ConfigError for a file of synonyms that cannot be used."""
    known = Synonyms.load(options.synonyms)  # also where the rule is off: a wrong path is wrong
    rules: list[Rule] = []
    if options.grounded:
        rules.append(lambda prompt, score: _grounded(prompt, score, options.neutral_band, known))
    if options.penalty:
        rules.append(_penalty)
    return rules


def layout(neutral_band: float) -> list[Rule]:
    """The rules for the whole picture's score."""
    return [lambda prompt, score: _neutral(prompt, score, neutral_band)]


def apply(rules: Sequence[Rule], prompt: str, score: Score) -> Score:
    """The score with the rules applied."""
    for rule in rules:
        score = rule(prompt, score)
    return score


def _changed(score: Score, value: float, rule: str) -> Score:
    if value == score.value:
        return score
    stated = score.value if score.stated is None else score.stated
    return evolve(score, value=value, stated=stated, rules=(*score.rules, rule))


def _grounded(prompt: str, score: Score, band: float, known: Synonyms) -> Score:
    if score.value <= band or not comparable(prompt, score.label, known) or names(prompt, score.label, known):
        return score
    seen = f'"{score.label}" is nothing' if score.label else "what it sees is not said, so it is nothing"
    named = ", ".join(keywords(prompt, known))
    return _changed(score, band, f"Semantic grounding: {seen} that the prompt names ({named}), so at most {band:g}.")


def _penalty(prompt: str, score: Score) -> Score:
    value = penalised(score.value)
    return _changed(score, value, f"Non-linear penalty: {score.value:g} counts as {value:.3g}.")


def _neutral(prompt: str, score: Score, band: float) -> Score:
    if abs(score.value) <= band or not readable(prompt) or spatial_directives(prompt):
        return score
    value = max(-band, min(band, score.value))
    return _changed(score, value, f"Neutral band: the prompt says nothing about arrangement, so within ±{band:g}.")
