"""Whether a prompt has a spatial directive (paper §3.2: "an image of a tree" does not).

`layout_rule.toml` lists the directives, and idioms that are none; these are taken out first, like what stands in
double quotes (words to be written in the image). In doubt a phrase counts: a word too many leaves a score as the
judge stated it, one too few takes it away.
"""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files

_TABLE = tomllib.loads((files("srum_judges.rules") / "layout_rule.toml").read_text(encoding="utf-8"))
_STRAIGHT = str.maketrans("“”„‟’‘‐‑‒–—", '""""' + "''" + "-----")


def _expand(table: str) -> str:
    """A regular expression for any of the alternatives, parts put in."""
    alternatives = "|".join(table.strip("\n").split("\n"))
    return "(?:" + re.sub(r"<(\w+)>", lambda part: _expand(_TABLE["parts"][part[1]]), alternatives) + ")"


_IDIOM, _DIRECTIVE = (re.compile(rf"(?<![\w']){_expand(_TABLE[name])}(?![\w'])") for name in ("idioms", "directives"))


def spatial_directives(text: str) -> list[str]:
    """The spatial directives in a prompt, in order, lower case, hyphens as spaces; [] = none."""
    words = " ".join(text.translate(_STRAIGHT).lower().replace("-", " ").split())
    if not re.fullmatch(r'"[^"]*"\W*', words):  # all of it in quotes: a quoted prompt, not words in the image
        words = re.sub(r'"[^"]*"', "·", words)
    return _DIRECTIVE.findall(_IDIOM.sub("·", words))
