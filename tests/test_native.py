"""The grounder `native`: what becomes of the boxes that models write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import each_row

from srum_core.errors import ConfigError
from srum_core.records import BoxFormat, Candidate, Prompt, Region, Unreadable, area, iou
from srum_judges.grounders.native import Native, read_boxes
from srum_judges.options import NativeOptions

IMAGE = Candidate("c", Prompt("p", 'a {cat} and a "dog"'), Path("c.png"), (200, 100), 0)
CAT = '{"bbox_2d": [20, 10, 100, 50], "label": "cat"}'
DOG = '{"bbox_2d": [120, 40, 180, 90], "label": "dog"}'
BOTH = ["cat 20 10 100 50", "dog 120 40 180 90"]


def found(answer: str, **options: Any) -> list[str] | str:
    """Labels and boxes in stored pixels; or why the answer is asked for again."""
    items = Native(NativeOptions(**options)).regions(IMAGE, [answer])
    if items and isinstance(items[0], Unreadable):
        (item,) = items
        assert isinstance(item, Unreadable)
        assert (item.question, item.region, item.judge) == (0, None, "native")
        return item.why
    regions = [item for item in items if isinstance(item, Region)]
    assert [region.id for region in regions] == [str(number + 1) for number in range(len(items))]
    return [f"{region.label} {show(region)}".strip() for region in regions]


def show(region: Region) -> str:
    return " ".join(f"{edge * side:.4g}" for edge, side in zip(region.box, IMAGE.size * 2, strict=True))


READ = {
    "a list": f"[{CAT}, {DOG}]",
    "a fenced list": f"```json\n[\n  {CAT},\n  {DOG}\n]\n```",
    "words around it": f"Sure [as asked]! Here are {{two}} boxes:\n[{CAT}, {DOG}]\nI hope [this] helps.",
    "after thinking": f"<think>maybe [{DOG}] or [0, 0, 9, 9]?</think>\n[{CAT}, {DOG}]",
    "after thinking that the chat format opened": f"[{DOG}]</think>[{CAT}, {DOG}]",
    "one object a line": f"{CAT}\n{DOG}\n",
    "fences around each": f"```json\n{CAT}\n```\n```json\n{DOG}\n```",
    "an object around the list": f'{{"objects": [{CAT}, {DOG}]}}',
    "objects around the list": f'{{"result": {{"count": 2, "objects": [{CAT}, {DOG}]}}}}',
    "lists in a list": f"[[{CAT}], [{DOG}]]",
    "a comma too many": f"[{CAT}, {DOG},]",
    "cut off in a box": f'[{CAT}, {DOG}, {{"bbox_2d": [1, 2, 3',
    "cut off after a box": f'[{CAT}, {DOG}, {{"bbox_2d": [1, 2, 30, 40], "label": "b',
    "cut off after a comma": f"```json\n[{CAT}, {DOG},",
    "cut off in the object around": f'{{"objects": [{CAT}, {DOG}, {{',
    "numbers as strings": f'[{CAT}, {{"bbox_2d": ["120", " 40.0", "+180", "90."], "label": "dog"}}]',
    "other names": '[{"BBox": [20, 10, 100, 50], "name": "cat"}, {"bounding box": [120, 40, 180, 90], "class": "dog"}]',
    "swapped corners": '[{"box": [100, 10, 20, 50], "label": "cat"}, {"box": [180, 90, 120, 40], "label": "dog"}]',
    "a repetition": f"[{CAT}, {CAT}, {DOG}, {DOG}]",
    "one thing without a box": f'[{CAT}, {{"label": "mouse"}}, {DOG}]',
    "one box of three numbers": f'[{CAT}, {{"bbox_2d": [1, 2, 3], "label": "mouse"}}, {DOG}]',
    "true is no number": f'[{CAT}, {{"bbox_2d": [true, 2, 90, 90], "label": "mouse"}}, {DOG}]',
    "nor is NaN, nor infinity": f'[{CAT}, {{"box": [NaN, 0, 9, 9]}}, {{"box": [0, 0, 1e999, Infinity]}}, {DOG}]',
    "nor a number beyond floats": f'[{CAT}, {{"box": [0, 0, {"9" * 400}, 9]}}, {DOG}]',
    "nor are words": f'[{CAT}, {{"box": ["1e3", "two", "0x9", "9"]}}, {DOG}]',
    "one box outside the image": f'[{CAT}, {{"bbox_2d": [300, 10, 400, 50], "label": "mouse"}}, {DOG}]',
    "one box without height": f'[{CAT}, {{"bbox_2d": [10, 10, 90, 10], "label": "mouse"}}, {DOG}]',
}


@each_row("answer", READ.values(), ids=READ.keys())
def test_what_is_read(answer: str) -> None:
    assert found(answer) == BOTH


ODD = {
    "a single object": (CAT, BOTH[:1]),
    "bare boxes": ("[[20, 10, 100, 50], [120, 40, 180, 90]]", [label[4:] for label in BOTH]),
    "a box over the edge is cut": ('[{"box": [-50, 40, 80, 900]}]', ["0 40 80 100"]),
    "a label over two lines": ('[{"box": [0, 0, 90, 90], "label": " a\\n cat\t"}]', ["a cat 0 0 90 90"]),
    "a line break in a label": ('[{"box": [0, 0, 90, 90], "label": "a\ncat"}]', ["a cat 0 0 90 90"]),
    "half a surrogate in a label": ('[{"box": [0, 0, 90, 90], "label": "cat\\ud83d"}]', ["cat? 0 0 90 90"]),
    "a label that is no text": ('[{"box": [0, 0, 90, 90], "label": 7}]', ["0 0 90 90"]),
    "a long label": (json.dumps([{"box": [0, 0, 90, 90], "label": "x" * 999}]), ["x" * 200 + " 0 0 90 90"]),
    "nothing": ("[]", []),
    "nothing, fenced": ("```json\n[]\n```", []),
    "nothing, with words and a footnote": ("There is nothing of the kind [1]: []", []),
    "nothing, in an object": ('{"objects": []}', []),
}


@each_row("answer, expected", ODD.values(), ids=ODD.keys())
def test_what_is_made_of_odd_answers(answer: str, expected: list[str]) -> None:
    assert found(answer) == expected


NO_LIST = "The answer holds no list of boxes in JSON."
NO_BOX = "Nothing that the answer lists has a box of four finite numbers"
NO_USE = "None of the 1 boxes covers 0.001 of an image of 200 by 100"
ASKED_AGAIN = {
    "empty": ("", "The answer is empty."),
    "only thoughts": (f"<think>[{CAT}]", "The answer ends inside a think block"),
    "words": ("I see a cat at the left and a dog at the right.", NO_LIST),
    "coordinates in words": ("cat: (20, 10), (100, 50)", NO_LIST),
    "a remark in brackets": ("The cat [1] is on the left.", NO_LIST),
    "four numbers alone": ("[20, 10, 100, 50]", NO_LIST),
    "cut off in the first box": ('[{"bbox_2d": [20, 10, 100, 50], "label": "c', NO_LIST),
    "cut off after an empty list": ('[{"tags": [], "bbox_2d": [20, 10', NO_LIST),
    "single quotes": ("[{'bbox_2d': [20, 10, 100, 50]}]", NO_LIST),
    "an empty object": ("{}", f"{NO_BOX}, for example {{}}"),
    "things without boxes": ('[{"label": "cat"}]', f'{NO_BOX}, for example {{"label": "cat"}}'),
    "boxes of three numbers": ('[{"bbox_2d": [1, 2, 3]}]', NO_BOX),
    "null for a box": ('[{"bbox_2d": null, "label": "cat"}]', NO_BOX),
    "all outside the image": ('[{"bbox_2d": [300, 200, 400, 300]}]', NO_USE),
    "fractions where pixels are wanted": ('[{"bbox_2d": [0.1, 0.1, 0.5, 0.5]}]', NO_USE),
    "nested without end": ("[" * 30_000, "nested too deeply"),
    "nested without end, in objects": ('{"a":' * 6_000, "nested too deeply"),
    "endless": (CAT * 2_000, "characters; at most"),
}


@each_row("answer, why", ASKED_AGAIN.values(), ids=ASKED_AGAIN.keys())
def test_what_is_asked_again(answer: str, why: str) -> None:
    reason = found(answer)
    assert isinstance(reason, str)
    assert why in reason


def test_a_box_without_width_or_height_is_dropped_even_if_no_box_is_too_small() -> None:
    for flat in ([10, 10, 10, 90], [10, 10, 90, 10], [250, 10, 300, 90], [10, 200, 90, 300]):
        assert found(f'[{{"box": {flat}}}, {CAT}]', min_area=0.0) == BOTH[:1]


def test_small_boxes_near_duplicates_and_too_many_boxes_are_dropped() -> None:
    near = '{"bbox_2d": [20, 10, 100, 49], "label": "cat again"}'
    small = '{"bbox_2d": [0, 0, 10, 10], "label": "mouse"}'
    answer = f"[{CAT}, {near}, {small}, {DOG}]"
    mouse, again = "mouse 0 0 10 10", "cat again 20 10 100 49"
    assert found(answer) == [BOTH[0], mouse, BOTH[1]]
    assert found(answer, duplicates=1) == [BOTH[0], again, mouse, BOTH[1]]
    assert found(answer, min_area=0.005) == [BOTH[0], mouse, BOTH[1]]
    assert found(answer, min_area=0.006) == BOTH
    assert found(answer, max_regions=2) == [BOTH[0], mouse]
    assert found(f"[{DOG}, {CAT}]", max_regions=1) == [BOTH[1]]


@each_row(
    "declared, option, stated",
    [
        (None, "model", [20, 10, 100, 50]),
        (BoxFormat("pixels", (400, 50)), "model", [40, 5, 200, 25]),
        (BoxFormat("thousand"), "model", [100, 100, 500, 500]),
        (BoxFormat("fraction", (7, 7)), "model", [0.1, 0.1, 0.5, 0.5]),
        (BoxFormat("pixels", (400, 50)), "pixels", [20, 10, 100, 50]),
        (BoxFormat("pixels", (400, 50)), "thousand", [100, 100, 500, 500]),
        (None, "fraction", [0.1, 0.1, 0.5, 0.5]),
    ],
)
def test_boxes_are_read_in_the_unit_that_the_model_writes(
    declared: BoxFormat | None, option: Any, stated: list[float]
) -> None:
    candidate = Candidate("c", Prompt("p", ""), Path("c.png"), (200, 100), 0, boxes=declared)
    (region,) = Native(NativeOptions(boxes=option)).regions(candidate, [json.dumps([{"box": stated}])])
    assert isinstance(region, Region)
    assert region.box == pytest.approx((0.1, 0.1, 0.5, 0.5))


def test_the_question_names_the_prompt_and_the_unit() -> None:
    (question,) = Native(NativeOptions(max_new_tokens=7, think=True)).questions(IMAGE)
    assert (question.image, question.max_new_tokens, question.think, question.crop) == (IMAGE.image, 7, True, None)
    assert '"a {cat} and a "dog""' in question.text
    assert "[left, top, right, bottom] in a picture that counts as 200 wide and 100 high:" in question.text
    (question,) = Native(NativeOptions(boxes="thousand")).questions(IMAGE)
    assert "counts as 1000 wide and 1000 high" in question.text
    (question,) = Native(NativeOptions(boxes="fraction")).questions(IMAGE)
    assert "as fractions of the width and height" in question.text


def test_the_wording_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("Boxes of {prompt}, please.")
    (question,) = Native(NativeOptions(template=str(tmp_path / "own.txt"))).questions(IMAGE)
    assert question.text == 'Boxes of a {cat} and a "dog", please.'
    (tmp_path / "own.txt").write_text("Boxes, please.")
    with pytest.raises(ConfigError, match=r"does not contain \{prompt\}"):
        Native(NativeOptions(template=str(tmp_path / "own.txt")))


# Whatever a model says

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
four = st.lists(st.integers(-50, 300) | st.floats() | st.booleans() | st.text(max_size=3), min_size=3, max_size=5)
thing = st.dictionaries(st.sampled_from(["bbox_2d", "box", "label", "name", "objects"]), scalars | four)
anything = st.recursive(scalars | four | thing, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


def check(answer: str, **options: Any) -> None:
    native = Native(NativeOptions(**options))
    items = native.regions(IMAGE, [answer])
    assert items == native.regions(IMAGE, [answer])
    if any(isinstance(item, Unreadable) for item in items):
        assert len(items) == 1
        return
    regions = [item for item in items if isinstance(item, Region)]  # a Region checks its own box
    assert len(regions) == len(items) <= native.options.max_regions
    assert [region.id for region in regions] == [str(number + 1) for number in range(len(regions))]
    for number, region in enumerate(regions):
        assert area(region.box) >= native.options.min_area
        assert all(iou(region.box, other.box) <= native.options.duplicates for other in regions[:number])
        region.label.encode()


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text('[]{}",: \\0123456789.eE-+bbox_2dlabel\n`<think>/'))
def test_any_text_gives_regions_or_a_reason(answer: str) -> None:
    check(answer)
    assert bool(read_boxes(answer).why) + bool(read_boxes(answer).boxes) < 2


def test_white_space_that_float_does_not_know_is_no_number() -> None:
    check('[[0, 0, 0, "0\\u001f"]]')


@settings(max_examples=300, deadline=None)
@given(anything, st.sampled_from(["pixels", "fraction", "thousand", "model"]), st.floats(0, 1), st.integers(1, 3))
def test_any_json_gives_regions_or_a_reason(value: Any, unit: str, min_area: float, top: int) -> None:
    check(json.dumps(value), boxes=unit, min_area=min_area, max_regions=top)


boxes = st.lists(st.integers(0, 200), min_size=4, max_size=4)
listed = st.lists(st.fixed_dictionaries({"bbox_2d": boxes, "label": st.text(max_size=5)}), min_size=1, max_size=5)


@settings(max_examples=300, deadline=None)
@given(listed, st.data())
def test_a_spoilt_answer_gives_regions_or_a_reason(value: list[dict[str, Any]], data: st.DataObject) -> None:
    answer = json.dumps(value, indent=data.draw(st.sampled_from([None, 1])))
    start = data.draw(st.integers(0, len(answer)))
    end = data.draw(st.integers(start, min(len(answer), start + 6)))
    check(answer[:start] + data.draw(st.text('[]{}",:0-. a', max_size=3)) + answer[end:])


@settings(max_examples=100, deadline=None)
@given(listed, st.data())
def test_an_answer_that_breaks_off_keeps_its_complete_objects(value: list[dict[str, Any]], data: st.DataObject) -> None:
    answer = json.dumps(value)
    end = data.draw(st.integers(1, len(answer)))
    whole = read_boxes(answer).boxes
    got = read_boxes(answer[:end]).boxes
    ends = [len(json.dumps(value[: number + 1])) - 1 for number in range(len(value))]
    assert got == whole[: sum(one <= end for one in ends)]
