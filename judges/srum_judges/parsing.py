"""Reads scores and verdicts out of judges' answers as a careful person would: nothing is clipped, guessed or taken
for 0.

Read: what follows the last `</think>`; labels in any case and with any markup; `.5`, `+0.5`, `-1.`, typographic minus
signs; regions set apart by `---`, blank lines or nothing but the next "Region ID"; a score on the line below its
label. Not read: an unclosed think block; values out of [-1, 1]; `8/10`, `80 %`, `0,5`, `0.5 to 0.9` (`0.8/1.0` is
0.8); two different scores for the same thing; a score that could belong to either of two regions. A verdict is yes,
keep or true, or else no, drop or false; not "maybe", "yes or no", "not really", or a yes and a no.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from attrs import evolve, frozen

from srum_core.stages.interview import LONGEST_ANSWER

_FLAGS = re.IGNORECASE | re.MULTILINE
_MARKUP = "[*_`~\"'\\\\$ \t\u00a0]*"
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff]")
_THINK_END = re.compile(r"</think(?:ing)?\s*>", _FLAGS)
_THINK_START = re.compile(r"<think(?:ing)?\s*>", _FLAGS)

_OBJECT = "identified object"
_REASON = ("reason", "justification", "explanation")
_LABEL = re.compile(
    r"(?<![^\W_])(?P<kind>region[\s_-]*id|bounding[ _]*box|identified[ _]*object"
    r"|(?:(?:final|overall|total)[ _]+)?(?:score|verdict)|reason|justification|explanation"
    rf"|overall[ _]*impression|composition[ _]*analysis){_MARKUP}[:：=]",
    _FLAGS,
)
_REGION_ID = re.compile(
    rf"(?<![^\W_])region[^\S\n]*[_-]?id(?![^\W_]){_MARKUP}(?:[:：=]|(?=#?[0-9]))[*_`\"'\[(<# \t]*(?P<id>[^\W_][\w.-]*)",
    _FLAGS,
)
_REGION_HEADING = re.compile(r"^(?:[^\w\n]|[\d_])*+region[^\S\n]+[#*]*(?P<id>[0-9]+)[*_` \t]*(?:[:：]|$)", _FLAGS)
_PARAGRAPH_END = re.compile(r"^[^\S\n]*+(?P<rule>[-*_=–—─]{3,}+)?[^\S\n]*+$\n?", _FLAGS)
_SUMMARY = re.compile(r"[\W\d_]*(?:overall|in summary|summary|in conclusion|conclusion)\b", _FLAGS)

_OPENING = re.compile(r"[\s*_`~\"'\\$\[({<]*")
_MINUS = "-−–—‐‑‒﹣－"
_NUMBER = re.compile(rf"(?P<sign>[{_MINUS}+＋]?)(?P<digits>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_DIGIT_AHEAD = re.compile(r"[^\w\n]{0,8}[0-9]")
_LIST_MARK = re.compile(r"[0-9]+[.)][^\S\n]+\S")
_NOT_PLAIN = re.compile(  # what follows the number on its line makes it something else than a plain number
    rf"""[^\W_] | _?[0-9] | [.,:'’·][0-9]                              # 8k  1e5  1_000  0,5  0.8.1
    | [^\S\n]*[%‰±²³]                                                   # 80 %
    | [)\]*_`]*[^\S\n]*(?:/|(?:out[^\S\n]+)?of\b)[^\S\n]*(?!1(?:\.0*)?(?!\.?[0-9]))\.?[0-9]   # 8/10, but not 0.8/1.0
    | [^\S\n]*out[^\S\n]+of[^\S\n]+[a-z]                                # 8 out of ten
    | [^\S\n]*(?:to|or|and|~|…|\.\.+|[,;|]|[{_MINUS}])[^\S\n]*[{_MINUS}+]?\.?[0-9]           # 0.5 to 0.9, 0.5, 0.7
    """,
    _FLAGS | re.VERBOSE,
)

_VERDICTS = {"yes": 1.0, "keep": 1.0, "true": 1.0, "no": -1.0, "drop": -1.0, "false": -1.0}
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W\d_]+")
_AFTER_VERDICT = re.compile(  # the end, or a sign that starts something new: "yes, because", not "yes or no", "yes/no"
    r"[\s*_`\"')\]}>$\\]*(?:$|[.,;:!(\-–—][\W_]*(?:(?:or|and|but|wait|actually|rather|maybe)[\W_]+)*(?P<next>[^\W\d_]*))"
    r"|\s+(?:because|since|as)\b",
    _FLAGS,
)

_ANSWER_LABEL = re.compile(rf"^[*_`#> \t]*(?:(?:final|short)[ _]+)?answer{_MARKUP}[:：=]", _FLAGS)
_BARE_VERDICT = re.compile(rf"(?<=\n)[*_` \t]*(?:{'|'.join(_VERDICTS)})\b(?=[*_` \t]*(?:$|[.,;:!]))", _FLAGS)
_UNPUNCTUATED = re.compile(r"^([*_` \t]*(?:yes|no))(?=[ \t]+(?:it|there|they|the|this)\b)", _FLAGS)  # "yes it is"

_MISSING = re.compile(rf"^[*_`#>\- \t]*missing(?:[ _]objects?)?{_MARKUP}[:：=](?P<what>[^\n]*)", _FLAGS)
_NOTHING = re.compile(r"(?:none|nothing|n/a|no objects?)\b|(?:no|-+)$", _FLAGS)
_AND = re.compile(r"[,;]|\band\b", _FLAGS)

_Statement = tuple[re.Match[str], float | str, int]
"""Something stated: its label, its value (or, where it is none, the words) and where it ends."""


@frozen
class Reading:
    """The reading of an answer for one thing: a value in [-1, 1], or None and the reason."""

    value: float | None
    why: str = ""
    reason: str = ""
    label: str = ""
    missing: int | None = None
    """Number of objects reported as missing; None = not reported."""


def read_whole(answer: str, require_reason: bool = True, label: str = _OBJECT) -> Reading:
    """The one score of an answer about the whole image; `label` is the field that its label is taken from."""
    text = spoken(answer)
    if isinstance(text, Reading):
        return text
    return evolve(_read(_PARAGRAPH_END.sub("\n", text), require_reason, label), missing=_missing(text))


def read_regions(answer: str, known: Sequence[str], require_reason: bool = True) -> dict[str, Reading]:
    """One reading for every known region id, in the order of `known`; other ids are ignored."""
    return _by_region(answer, known, _statements, lambda part: _read(part, require_reason))


def read_verdicts(answer: str, known: Sequence[str]) -> dict[str, Reading]:
    """As `read_regions`, for a yes (1.0) or no (-1.0) about every region; the reason is not mandatory."""
    return _by_region(answer, known, _verdicts, _verdict)


def read_verdict(answer: str) -> Reading:
    """The one yes (1.0) or no (-1.0) of an answer to a plain question, labelled or not; the reason is not mandatory."""
    text = spoken(answer)
    if isinstance(text, Reading):
        return text
    text = _UNPUNCTUATED.sub(r"\1,", _ANSWER_LABEL.sub("Verdict:", text.lstrip()))
    return _verdict(text if any(_verdicts(text)) else _BARE_VERDICT.sub(r"Verdict: \g<0>", f"Verdict: {text}"))


def _by_region(
    answer: str,
    known: Sequence[str],
    stated: Callable[[str], Iterator[_Statement]],
    read: Callable[[str], Reading],
) -> dict[str, Reading]:
    """The reading of every known region, in their order; without value where it is unclear or missing.

    stated  finds what the answer states: where that stands before a region id it belongs to the one that follows, and
            before several to none
    read    the text about one region
    """
    text = spoken(answer)
    if isinstance(text, Reading):
        return dict.fromkeys(known, text)
    parts: dict[str, list[str]] = {}
    doubtful: set[str] = set()
    open_region: str | None = None
    for paragraph, after_rule in _paragraphs(text):
        heads = _heads(paragraph)
        if after_rule or _SUMMARY.match(paragraph):
            open_region = None
        if not heads:
            if open_region is not None:
                parts[open_region].append(paragraph)
            continue
        identities = [_resolve(head["id"], known) for head in heads]
        before = paragraph[: heads[0].start()]
        ends = [head.start() for head in heads[1:]] + [len(paragraph)]
        if not any(stated(before)):
            before = ""
        elif len(heads) > 1:
            doubtful.update(identities)
            before = ""
        for identity, head, end in zip(identities, heads, ends, strict=True):
            parts.setdefault(identity, []).append(f"{before}\n{paragraph[head.end() : end]}")
        open_region = identities[-1]
    doubt = Reading(None, "Values stand both before and after region ids, so it is not clear which belongs to which.")
    missing = Reading(None, "The answer has nothing about this region.")
    return {
        name: doubt if name in doubtful else read("\n".join(parts[name])) if name in parts else missing
        for name in known
    }


def spoken(answer: str) -> str | Reading:
    """The answer without thoughts, with plain line ends; a Reading without value where nothing is left."""
    text = _INVISIBLE.sub("", answer.replace("\r\n", "\n").replace("\r", "\n"))
    ends = [end.end() for end in _THINK_END.finditer(text)]
    text = text[ends[-1] :] if ends else text
    if _THINK_START.search(text):
        return Reading(None, "The answer ends inside a think block, so it was cut off or never given.")
    if not text.strip():
        return Reading(None, "The answer is empty.")
    if len(text) > LONGEST_ANSWER:
        return Reading(None, f"The answer has {len(text)} characters; at most {LONGEST_ANSWER} are read.")
    return text


def _paragraphs(text: str) -> Iterator[tuple[str, bool]]:
    """Pieces between blank lines and rules such as `---`; True where a rule stands right before the piece."""
    start, ruled = 0, False
    for cut in _PARAGRAPH_END.finditer(text):
        if text[start : cut.start()].strip():
            yield text[start : cut.start()], ruled
            ruled = False
        ruled = ruled or cut["rule"] is not None
        start = cut.end()
    if text[start:].strip():
        yield text[start:], ruled


def _heads(paragraph: str) -> list[re.Match[str]]:
    """Where a region's part begins. A region id in the middle of a reason is a mention, unless labels follow it."""
    matches = sorted([*_REGION_ID.finditer(paragraph), *_REGION_HEADING.finditer(paragraph)], key=lambda m: m.start())
    labels = list(_LABEL.finditer(paragraph))
    starts = [label.start() for label in labels]
    reasons = [label.start() for label in labels if label["kind"].lower() in _REASON]
    heads: list[re.Match[str]] = []
    for match in matches:
        since = heads[-1].end() if heads else 0
        in_reason = bisect_left(reasons, since) < bisect_left(reasons, match.start())
        following = bisect_left(starts, match.end())
        labelled = following < len(labels) and labels[following].end() <= _line_end(paragraph, match.end())
        if _starts_line(paragraph, match.start()) or not in_reason or labelled:
            heads.append(match)
    return heads


def _resolve(written: str, known: Sequence[str]) -> str:
    """The known id that is meant ("01" and "1." mean "1"), else the id as written."""
    trimmed = written.strip("._-")
    for form in (written, trimmed, trimmed.lstrip("0"), trimmed.lower()):
        if form in known:
            return form
    return written


def _starts_line(text: str, position: int) -> bool:
    return not _LETTER.search(text, text.rfind("\n", 0, position) + 1, position)


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _statements(text: str) -> Iterator[_Statement]:
    """Every stated score, with the words where it is no plain number."""
    for label in _LABEL.finditer(text):
        if not label["kind"].lower().endswith("score"):
            continue
        opening = _OPENING.match(text, label.end())
        assert opening is not None
        if "\n" in opening[0] and _LIST_MARK.match(text, opening.end()):
            continue  # the next line is item 1 of a list, not the value
        number = _NUMBER.match(text, opening.end())
        if number is None and not _DIGIT_AHEAD.match(text, opening.end()):
            continue  # "the score: high" states no number
        words = text[opening.end() : opening.end() + 40].split("\n", 1)[0].strip()
        if number is None or _NOT_PLAIN.match(text, number.end()):
            yield label, words, opening.end()
        else:
            sign = -1.0 if number["sign"] and number["sign"] in _MINUS else 1.0
            value = sign * float(number["digits"]) + 0.0  # no negative zero
            yield label, value if abs(value) <= 1 else words, number.end()


def _read(text: str, require_reason: bool, label: str = _OBJECT) -> Reading:
    """The one score stated in a text about one thing."""
    statements = list(_statements(text))
    odd = [value for _, value, _ in statements if isinstance(value, str)]
    values = sorted({value for _, value, _ in statements if isinstance(value, float)})
    if odd:
        return Reading(None, f'The score "{odd[0]}" is not a plain number between -1 and 1.')
    if not values:
        return Reading(None, "No score is stated.")
    if len(values) > 1:
        return Reading(None, f"Different scores are stated for the same thing: {', '.join(map(str, values))}.")
    reason = _reason(text, statements)
    if require_reason and not re.search(r"\w", reason):
        return Reading(None, "The mandatory reason is missing.")
    return Reading(values[0], reason=reason, label=_labelled(text, label))


def _missing(text: str) -> int | None:
    """How many objects a line such as "Missing: a red cup, a spoon" names; 0 for "Missing: none"."""
    line = _MISSING.search(text)
    words = _trim(line["what"]).rstrip(".") if line else ""
    if not words or words.isdecimal():
        return int(words[:3]) if words else None
    if _NOTHING.match(words):  # also "none of them", "nothing, all are there"
        return 0
    return len([part for part in _AND.split(words) if _LETTER.search(part)]) or None


def _verdicts(text: str) -> Iterator[_Statement]:
    """Every stated verdict, 1.0 or -1.0, with the words where it is neither."""
    for label in _LABEL.finditer(text):
        if not label["kind"].lower().endswith("verdict"):
            continue
        opening = _OPENING.match(text, label.end())
        assert opening is not None
        line = _until_label(text, opening.end())
        word = _WORD.match(line)
        value = _VERDICTS.get(word[0].lower()) if word else None
        after = _AFTER_VERDICT.match(line, word.end()) if word else None
        more = _VERDICTS.get((after["next"] or "").lower(), value) if after else None  # "yes, no"
        if word is None or value is None or more != value:
            yield label, line[:40].strip(), opening.end()
        else:
            yield label, value, opening.end() + word.end()


def _verdict(text: str) -> Reading:
    """The one verdict stated in a text about one region."""
    statements = list(_verdicts(text))
    odd = [value for _, value, _ in statements if isinstance(value, str)]
    values = {value for _, value, _ in statements if isinstance(value, float)}
    if odd:
        return Reading(None, f'The verdict "{odd[0]}" is neither a plain yes nor a plain no.')
    if len(values) != 1:
        return Reading(None, "Both yes and no are stated." if values else "No verdict is stated.")
    return Reading(values.pop(), reason=_reason(text, statements), label=_labelled(text, _OBJECT))


def _reason(text: str, statements: Sequence[_Statement]) -> str:
    """The labelled reason, over several lines if need be; without a label, the words that follow what is stated."""
    labels = list(_LABEL.finditer(text))
    start = next((label.end() for label in labels if label["kind"].lower() in _REASON), statements[0][2])
    stated = {label.start() for label, _, _ in statements}
    ends = [
        label.start()
        for label in labels
        if label.start() >= start and (_starts_line(text, label.start()) or label.start() in stated)
    ]
    return _trim(text[start : min(ends, default=len(text))])


def _labelled(text: str, name: str) -> str:
    """What stands on the line behind a label such as "identified object"; empty without it."""
    label = next((each for each in _LABEL.finditer(text) if _plain(each["kind"]) == _plain(name)), None)
    if label is None:
        return ""
    return _trim(_until_label(text, label.end()))


def _until_label(text: str, position: int) -> str:
    """The rest of a line, up to the next label in it."""
    end = _line_end(text, position)
    following = _LABEL.search(text, position, end)
    return text[position : following.start() if following else end]


def _plain(kind: str) -> str:
    return re.sub(r"[\W_]", "", kind.lower())


def _trim(text: str) -> str:
    """Without the markup and punctuation around it that belong to the format, not to the words."""
    quoted = re.fullmatch(r'\s*"([^"]*)"[\s,\[\]{}"]*', text)
    return (quoted[1] if quoted else text).lstrip(" \t\n*_`.,;:|/)]}").rstrip(" \t\n*_`,|]}")
