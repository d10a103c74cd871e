"""MMMU: answers to multiple-choice and open questions, and accuracy by subject and discipline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from attrs import frozen

from srum_core.stages.interview import legible

DISCIPLINES: Mapping[str, tuple[str, ...]] = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power",
        "Materials", "Mechanical_Engineering",
    ),
}  # fmt: skip
_ENDS = (",", ".", "!", "?", ";", ":", "'")
_LEADS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_COMMAS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_POWERS = re.compile(r"-?(?<!\d)\d++(?:\.\d++)?[eE][+-]?\d+")
_PLAIN = re.compile(r"-?(?:(?<!\d)\d+\.\d+|\.\d+|(?<!\d)\d+\b)(?![eE][+-]?\d+)(?![,\d])")

Value = str | float
Gold = str | Sequence[str]


def choice(answer: str, letters: Sequence[str], texts: Mapping[str, str]) -> str | None:
    """The letter that is named last, in brackets or else by itself, or else (in more than five words) the option whose
    text occurs last. None where the original draws one at random."""
    for mark in _ENDS:
        answer = answer.strip(mark)
    answer = f" {answer} "
    ways = [{each: answer.rfind(shown.format(each)) for each in letters} for shown in ("({})", " {} ")]
    if len(answer.split()) > 5:
        ways.append({each: answer.lower().rfind(text.lower()) for each, text in texts.items()})
    for places in ways:
        if max(places.values(), default=-1) >= 0:
            return max(places, key=lambda each: places[each])
    return None


def numbers(text: str) -> list[str]:
    """Numbers with commas, then those with exponents, then plain ones; what is in two forms is in the list twice."""
    return [*_COMMAS.findall(text), *_POWERS.findall(text), *_PLAIN.findall(text)]


def normalised(text: str) -> list[Value]:
    """A number with two decimals, or the text in lower case; a single letter with a blank before and one after it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def open_answers(answer: str) -> set[Value]:
    """Everything in an open answer that may be what was asked for; nothing of one that is too long to be read."""
    keys = _keys(legible(answer).strip().strip(".").lower())
    found = [*keys, *(number for key in keys for number in numbers(key))]
    return {value for text in found for value in normalised(text)}


def _keys(answer: str) -> list[str]:
    """What follows the words that lead to an answer, the shortest of each sentence; "=" leads in the last one."""
    sentences = re.split(r"\.\s(?=[A-Z])|\n", answer)
    keys = []
    for place, sentence in enumerate(sentences):
        leads = (*_LEADS, "=") if place == len(sentences) - 1 else _LEADS
        tails = [sentence.split(lead)[-1].strip() for lead in leads if lead in sentence]
        shortest = ""
        for tail in tails:
            shortest = tail if not shortest or len(tail) < len(shortest) else shortest
        if shortest and shortest not in _ENDS:
            keys.append(shortest)
    return keys or [answer]


def right_choice(gold: Gold, said: str | None) -> bool:
    return said == gold if isinstance(gold, str) else said in gold


def right_open(gold: Gold, said: set[Value]) -> bool:
    """A text counts if it holds a right one; a number if it is one."""
    golds = [gold] if isinstance(gold, str) else gold
    right = [value for each in golds for value in normalised(each)]
    texts = [value for value in right if isinstance(value, str)]
    return any(any(text in value for text in texts) if isinstance(value, str) else value in right for value in said)


@frozen
class Accuracy:
    count: int
    accuracy: float


def table(right: Mapping[str, Sequence[bool]]) -> dict[str, Accuracy]:
    """Disciplines ("Overall-Science", …) before their subjects, and "Overall". `right`: subject → its answers."""
    rows = {}
    for discipline, subjects in DISCIPLINES.items():
        own = {subject: right[subject] for subject in subjects if subject in right}
        rows[f"Overall-{discipline}"] = _accuracy([each for answers in own.values() for each in answers])
        rows |= {subject: _accuracy(answers) for subject, answers in own.items()}
    rows["Overall"] = _accuracy([each for answers in right.values() for each in answers])
    return rows


def _accuracy(right: Sequence[bool]) -> Accuracy:
    """Rounded to three decimals, as the original writes it."""
    return Accuracy(len(right), round(sum(right) / len(right), 3) if right else 0.0)
