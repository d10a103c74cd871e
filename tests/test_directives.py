"""The neutral band: which prompts say anything about arrangement, and what a layout score becomes where they do not."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from rows import each_row

from srum_benchmarks.shapes import world
from srum_core.records import Candidate, Prompt, Score
from srum_judges.judges import GlobalLayout
from srum_judges.options import LayoutOptions
from srum_judges.rules import spatial_directives

GOLDEN: list[tuple[str, list[str]]] = [
    # relations
    ("a red circle left of a blue square", ["left of"]),
    ("a lamp to the right of a sofa", ["to the right of"]),
    ("a clock on the left side of a door", ["on the left side of"]),
    ("a triangle above a cross", ["above"]),
    ("a triangle below a cross", ["below"]),
    ("a microwave hidden by a horse", ["hidden by"]),
    ("a moon partially covered by clouds", ["partially covered by"]),
    ("a dog between two cats", ["between"]),
    ("a bus in front of a church", ["in front of"]),
    ("a child hiding behind a tree", ["behind"]),
    ("a suitcase next to a bench", ["next to"]),
    ("a cat beside a teapot", ["beside"]),
    ("a castle surrounded by a moat", ["surrounded by"]),
    ("a book on top of a stack of plates", ["on top of", "stack of"]),
    ("a vase on a table", ["on"]),
    ("cups on tables", ["on"]),
    ("a cat under the bed", ["under"]),
    ("a boat under a light blue umbrella", ["under"]),
    ("a plane over the hills", ["over"]),
    ("toys all over the floor", ["over"]),
    ("a man leaning against a wall", ["against"]),
    ("a box with a cat inside", ["inside"]),
    ("a kitten in a wicker basket", ["in a wicker basket"]),
    ("a goldfish in a bowl", ["in a bowl"]),
    ("a bench by the old lake", ["by the old lake"]),
    ("a child at a table", ["at a table"]),
    ("two people facing each other", ["facing each other"]),
    ("a train going through the tunnel", ["through"]),
    ("a bridge across the river", ["across"]),
    ("a house near a forest", ["near"]),
    ("a shop opposite the station", ["opposite"]),
    ("a lantern hanging from a branch", ["hanging from"]),
    ("the robot is UNDERNEATH the\nbridge", ["underneath"]),
    ("a cat left behind the door", ["behind"]),
    # places in the image and formations
    ("five apples in a row", ["in a row"]),
    ("dancers in a wide circle", ["in a wide circle"]),
    ("chairs in neat rows", ["in neat rows"]),
    ("a sun in the top-left corner", ["in the top left corner"]),
    ("a plant in the corner of the room", ["in the corner of"]),
    ("a signature at the bottom", ["at the bottom"]),
    ("mountains in the background", ["in the background"]),
    ("a lighthouse in the distance", ["in the distance"]),
    ("a statue in the middle of the square", ["in the middle of"]),
    ("books stacked side by side", ["stacked", "side by side"]),
    ("a logo, centred", ["centred"]),
    ("an upside-down cup", ["upside down"]),
    ("a car on the left and a bike on the right", ["on the left", "on the right"]),
    ("on a foggy night, a fox beneath a lamp", ["beneath"]),
    # the viewer
    ("a wide shot of a sunset over the ocean", ["wide shot", "over"]),
    ("a close-up of an eye", ["close up"]),
    ("a bird’s-eye view of a city", ["bird's eye view"]),
    ("a town seen from above", ["from above"]),
    ('"a cat left of a dog"', ["left of"]),
    # none
    ("a picture of a tree", []),
    ("three green crosses", []),
    ("a red circle and a blue square", []),
    ("a left shoe", []),
    ("a woman raising her right hand", []),
    ("a left-handed guitarist", []),
    ("all that is left of the castle", []),
    ("a dog in the rain", []),
    ("a house on fire", []),
    ("a couple in love", []),
    ("children playing on a sunny day", []),
    ("a meadow on a bright spring morning", []),
    ("a tower under construction", []),
    ("a field under a starry sky", []),
    ("a portrait on a plain white background", []),
    ("a bottle against a black backdrop", []),
    ("a forest in winter", []),
    ("a knight in shining armour", []),
    ("a man holding an umbrella", []),
    ("a woman riding a horse", []),
    ("a landscape in the style of a woodcut", []),
    ("an oil painting on canvas", []),
    ("a painting by a famous artist", []),
    ("a street in the middle of the night", []),
    ("a handshake between two leaders", []),
    ("a man on the phone", []),
    ("a family on vacation", []),
    ("a top hat and a tank top", []),
    ("a laptop and an overcoat", []),
    ("a black-and-white photo of a cat", []),
    ("a trip around the world", []),
    ("a football match against time", []),
    ("people over 50", []),
    ("the temperature is below zero", []),
    ("a toy left behind", []),
    ('a sign that says "keep left of the line"', []),
    ("a bird with bright feathers", []),
    ("a wooden table and a glass vase", []),
    ("once upon a time", []),
    ("right now", []),
    ("", []),
]


@each_row("prompt, found", GOLDEN)
def test_directives(prompt: str, found: list[str]) -> None:
    assert spatial_directives(prompt) == found


def test_of_the_world_of_shapes_only_relations_are_directives() -> None:
    for category in world.CATEGORIES:
        for prompt in world.every_prompt("test", category)[:100]:
            relation = prompt.tags["relation"]
            assert spatial_directives(prompt.text) == ([relation] if relation else [])


def layout_score(prompt: str, stated: float, band: float = 0.4) -> Score:
    judge = GlobalLayout(LayoutOptions(neutral_band=band))
    (score,) = judge.scores(
        Candidate("c", Prompt("p", prompt), Path("c.png"), (8, 8), 0), (), [f"Score: {stated}\nReason: x"]
    )
    assert isinstance(score, Score)
    return score


@each_row("stated, value", [(1.0, 0.4), (0.41, 0.4), (-0.8, -0.4), (-1.0, -0.4)])
def test_without_directives_a_layout_score_stays_in_the_neutral_band(stated: float, value: float) -> None:
    score = layout_score("a picture of a tree", stated)
    assert (score.value, score.stated) == (value, stated)
    (rule,) = score.rules
    assert "spatial directive" in rule
    assert "0.4" in rule
    assert layout_score("a picture of a tree", stated, band=0.0).value == 0.0


@each_row(
    "prompt, stated, band",
    [
        ("a picture of a tree", 0.4, 0.4),
        ("a picture of a tree", -0.3, 0.4),
        ("a tree left of a house", 1.0, 0.4),
        ("a picture of a tree", -1.0, 1.0),  # switched off
        ("在房子左边的树", 0.9, 0.4),  # nobody looked for directives in this language
    ],
)
def test_scores_that_the_neutral_band_leaves_alone(prompt: str, stated: float, band: float) -> None:
    score = layout_score(prompt, stated, band)
    assert (score.value, score.stated, score.rules) == (stated, None, ())


PIECES = [
    "on",
    "in",
    "the",
    "a",
    "left",
    "of",
    "top",
    "under",
    "middle",
    "-",
    '"',
    ",",
    "day",
    "background",
    "corner",
    "\n",
    "’",
]


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=25).map(" ".join)))
def test_any_text_gives_words_that_stand_in_it(text: str) -> None:
    plain = " ".join(text.replace("’", "'").lower().replace("-", " ").split())
    position = 0
    for words in spatial_directives(text):
        position = plain.index(words, position) + len(words)


def test_long_texts_are_no_trouble() -> None:
    for unit in ("in the middle of a very big long ", "on a ", "left ", '"', "under the light ", "at the far "):
        spatial_directives(unit * 1000)
