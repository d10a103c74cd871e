"""The prompts of both versions of WISE: three JSON files each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from srum_benchmarks import files
from srum_benchmarks.files import Expected
from srum_core.errors import ConfigError
from srum_core.records import Prompt, PromptFile

SOURCE = "PKU-YuanGroup/WISE at eb51174"
GROUPS: Mapping[str, tuple[str, ...]] = {
    "cultural": ("CULTURE",),
    "spatio-temporal": ("TIME", "SPACE"),
    "science": ("BIOLOGY", "PHYSICS", "CHEMISTRY"),
}
"""The three files and their categories; the paper's Figure 6 trains on one and tests on the other two."""


@frozen
class Version:
    """Ids run from 1 on, without gaps, in the order of the categories. `weights` add up to 1."""

    name: str
    ranges: Mapping[str, tuple[int, int]] = field(hash=False)
    weights: Mapping[str, float] = field(hash=False)
    files: Mapping[str, Expected] = field(hash=False)

    def category(self, identity: int) -> str:
        """Of a prompt. Raises KeyError for an id that this version does not have."""
        for name, (first, last) in self.ranges.items():
            if first <= identity <= last:
                return name
        raise KeyError(identity)


LEGACY = Version(
    "wise",
    {
        "CULTURE": (1, 400), "TIME": (401, 567), "SPACE": (568, 700),
        "BIOLOGY": (701, 800), "PHYSICS": (801, 900), "CHEMISTRY": (901, 1000),
    },
    {"CULTURE": 0.4, "TIME": 0.167, "SPACE": 0.133, "BIOLOGY": 0.1, "PHYSICS": 0.1, "CHEMISTRY": 0.1},
    {
        "cultural": Expected(
            ("WISE_legacy/data/cultural_common_sense.json",), 400, {311: "e23000954ef46b7a"}, SOURCE, "Prompt"
        ),
        "spatio-temporal": Expected(
            ("WISE_legacy/data/spatio-temporal_reasoning.json",), 300, {1: "acd7c51b6a9e2d06"}, SOURCE, "Prompt"
        ),
        "science": Expected(
            ("WISE_legacy/data/natural_science.json",), 300, {228: "2c871453f659d2e9"}, SOURCE, "Prompt"
        ),
    },
)  # fmt: skip
VERIFIED = Version(
    "wise-verified",
    {
        "CULTURE": (1, 400), "TIME": (401, 520), "SPACE": (521, 640),
        "BIOLOGY": (641, 760), "PHYSICS": (761, 880), "CHEMISTRY": (881, 1000),
    },
    {"CULTURE": 0.4, **dict.fromkeys(("TIME", "SPACE", "BIOLOGY", "PHYSICS", "CHEMISTRY"), 0.12)},
    {
        "cultural": Expected(
            ("data_verified/cultural_common_sense_verified.json",), 400, {390: "e035987ede879c00"}, SOURCE, "Prompt"
        ),
        "spatio-temporal": Expected(
            ("data_verified/spatio-temporal_reasoning_verified.json",), 240, {178: "a17c1b55ab78f522"}, SOURCE, "Prompt"
        ),
        "science": Expected(
            ("data_verified/natural_science_verified.json",), 360, {136: "d011985f94e5ef3a"}, SOURCE, "Prompt"
        ),
    },
)  # fmt: skip


def load(version: Version, data: str, split: str = "test", verify: bool = True) -> list[Prompt]:
    """Prompts with their own ids; tags `category`, `group`, `explanation` and `subcategory`. Raises ConfigError.

    `split`: "test" is all of them; the name of a group ("cultural", "spatio-temporal", "science") that group alone,
    which is what the paper's Figure 6 trains on; "not-" before it the other two."""
    if split not in ("test", *GROUPS, *(f"not-{name}" for name in GROUPS)):
        groups = ", ".join(f'"{name}"' for name in GROUPS)
        raise ConfigError(f'{version.name} has the splits "test", {groups}, and each with "not-", not "{split}".')
    found, prompts, problems = _read(version, data)
    if verify:
        files.refuse(version.name, found, problems)
    if split == "test":
        return prompts
    name = split.removeprefix("not-")
    return [prompt for prompt in prompts if (prompt.tags["group"] == name) == (split == name)]


def survey(version: Version, data: str) -> list[PromptFile]:
    """Existing and missing ones of the three files."""
    return files.survey(data, list(version.files.values()), lambda: _read(version, data)[2])


def _read(version: Version, data: str) -> tuple[list[PromptFile], list[Prompt], list[str]]:
    """The files, their prompts, and what more is wrong with them."""
    paths = files.need(data, version.name, list(version.files.values()))
    found, prompts, problems = [], [], []
    for (group, expected), path in zip(version.files.items(), paths, strict=True):
        entries = files.read_json(path, list)
        found.append(files.check(expected, path, files.texts(path, entries, "Prompt")))
        own = [_prompt(version, path, number, group, entry) for number, entry in enumerate(entries, 1)]
        ids = [int(prompt.id) for prompt in own]
        if ids != list(range(ids[0], ids[0] + len(ids))) or version.category(ids[0]) != GROUPS[group][0]:
            problems.append(f"{path}: the ids do not count up one by one from the first of {GROUPS[group][0]}.")
        prompts += own
    return found, prompts, problems


def _prompt(version: Version, path: Path, number: int, group: str, entry: Mapping[str, Any]) -> Prompt:
    identity = entry.get("prompt_id")
    try:
        if not isinstance(identity, int) or version.category(identity) not in GROUPS[group]:
            raise KeyError(identity)
    except KeyError:
        raise ConfigError(
            f'{path}, entry {number}: "prompt_id" is {identity!r}, which is no id of the {group} prompts of '
            f"{version.name}. The two versions of WISE number other prompts alike and cannot be mixed."
        ) from None
    tags = {
        "category": version.category(identity),
        "group": group,
        "explanation": str(entry.get("Explanation", "")),
        "subcategory": str(entry.get("Subcategory", "")),
    }
    return Prompt(str(identity), entry["Prompt"], tags)
