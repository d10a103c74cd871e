"""The prompts of both versions of WISE: three JSON files each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
CATEGORIES = [name for names in GROUPS.values() for name in names]
_STEMS = ("cultural_common_sense", "spatio-temporal_reasoning", "natural_science")


@frozen
class Version:
    """Ids run from 1 to 1000, without gaps, category by category. A category weighs as much as it has prompts."""

    name: str
    ranges: Mapping[str, tuple[int, int]] = field(hash=False)
    files: Mapping[str, Expected] = field(hash=False)

    @property
    def weights(self) -> Mapping[str, float]:
        return {name: (last - first + 1) / 1000 for name, (first, last) in self.ranges.items()}

    def category(self, identity: int) -> str:
        """Of a prompt. Raises KeyError for an id that this version does not have."""
        for name, (first, last) in self.ranges.items():
            if first <= identity <= last:
                return name
        raise KeyError(identity)


def _version(name: str, place: str, lasts: Sequence[int], spots: Sequence[tuple[int, str]]) -> Version:
    """`place`: path of a file, with {} for its stem; `lasts`: the last id of each category."""
    ranges = dict(zip(CATEGORIES, zip([1, *(last + 1 for last in lasts)], lasts, strict=False), strict=True))
    files = {}
    for (group, names), stem, spot in zip(GROUPS.items(), _STEMS, spots, strict=True):
        count = ranges[names[-1]][1] - ranges[names[0]][0] + 1
        files[group] = Expected((place.format(stem),), count, dict([spot]), SOURCE, "Prompt")
    return Version(name, ranges, files)


LEGACY = _version(
    "wise",
    "WISE_legacy/data/{}.json",
    (400, 567, 700, 800, 900, 1000),
    [(311, "e23000954ef46b7a"), (1, "acd7c51b6a9e2d06"), (228, "2c871453f659d2e9")],
)
VERIFIED = _version(
    "wise-verified",
    "data_verified/{}_verified.json",
    (400, 520, 640, 760, 880, 1000),
    [(390, "e035987ede879c00"), (178, "a17c1b55ab78f522"), (136, "d011985f94e5ef3a")],
)


def load(version: Version, data: str, split: str = "test", verify: bool = True) -> list[Prompt]:
    """Prompts with their own ids; tags `category`, `group`, `explanation` and `subcategory`. Raises ConfigError.

    `split`: "test" is all of them; the name of a group ("cultural", "spatio-temporal", "science") that group alone,
    which is what the paper's Figure 6 trains on; "not-" before it the other two."""
    if split not in ("test", *GROUPS, *(f"not-{name}" for name in GROUPS)):
        groups = ", ".join(f'"{name}"' for name in GROUPS)
        raise ConfigError(f'{version.name} has the splits "test", {groups}, and each with "not-", not "{split}".')
    prompts = files.prompts(version.name, _read(version, data), verify)
    if split == "test":
        return prompts
    name = split.removeprefix("not-")
    return [prompt for prompt in prompts if (prompt.tags["group"] == name) == (split == name)]


def survey(version: Version, data: str) -> list[PromptFile]:
    """Existing and missing ones of the three files."""
    return files.survey(data, list(version.files.values()), lambda: _read(version, data))


def _read(version: Version, data: str) -> files.Contents:
    paths = files.need(data, version.name, list(version.files.values()))
    states, prompts, problems = [], [], []
    for (group, expected), path in zip(version.files.items(), paths, strict=True):
        entries, state = files.read_entries(expected, path)
        states.append(state)
        own = [_prompt(version, path, number, group, entry) for number, entry in enumerate(entries, 1)]
        ids = [int(prompt.id) for prompt in own]
        if ids != list(range(ids[0], ids[0] + len(ids))) or version.category(ids[0]) != GROUPS[group][0]:
            problems.append(f"{path}: the ids do not count up one by one from the first of {GROUPS[group][0]}.")
        prompts += own
    return states, prompts, problems


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
