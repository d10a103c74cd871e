"""The deliberate mistakes of breakages.py can still be made."""

from breakages import BREAKAGES, problems


def test_every_mistake_finds_its_text_and_its_tests() -> None:
    assert len({each.name for each in BREAKAGES}) == len(BREAKAGES) >= 60
    assert not [problem for each in BREAKAGES for problem in problems(each)]
