"""Templates of plugin packages, a folder a kind, and what fills them in. No torch.

A template is the file to be, with `.txt` behind its name so that no tool takes it for code, and with placeholders of
`string.Template`: ${name} my-judge, ${package} srum_my_judge, ${distribution} srum-my-judge, ${Class} MyJudge.
"""

from __future__ import annotations

import builtins
import keyword
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from string import Template

from attrs import frozen

from srum_core.errors import PluginError
from srum_core.plugins import Registry
from srum_core.plugins.hookspecs import KINDS

HERE = Path(__file__).parent
_WORDS = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
TRY = {
    "adapter": "srum-train --adapter ${name} answerer=scripted generate.limit=4 train.steps=2",
    "grounder": "srum-train --adapter bagel --preset shapes grounder=${name}",
    "judge": (
        "srum-train --adapter bagel --preset shapes judges='[{use=\"${name}\"}]' map=paper map.outside=global "
        'answerer=\'{use="scripted", text="7 of 10: fine."}\''
    ),
    "map": "srum-train --adapter bagel --preset shapes map=${name}",
    "loss": "srum-train --adapter bagel --preset shapes loss=${name}",
    "benchmark": "srum-train --adapter bagel --preset shapes benchmark=${name}",
    "answerer": "srum-train --adapter bagel --preset shapes answerer=${name}",
    "generator": "srum eval run --adapter ${name} --benchmark shapes evaluate.limit=4",
}
"""A run that uses the plugin as it is written."""


@frozen
class Names:
    """The names of a new plugin."""

    kind: str
    name: str
    """What `use` says, my-judge."""
    class_name: str

    @property
    def distribution(self) -> str:
        return f"srum-{self.name}"

    @property
    def package(self) -> str:
        return self.distribution.replace("-", "_")

    def fill(self, text: str) -> str:
        """A template with its placeholders replaced."""
        return Template(text).substitute(
            name=self.name,
            distribution=self.distribution,
            package=self.package,
            Class=self.class_name,
            kind=KINDS[self.kind].words,
            version=version("srum"),
        )

    @property
    def command(self) -> str:
        return self.fill(TRY[self.kind])


def choose_names(kind: str, text: str, registry: Registry) -> Names:
    """The names derived from the argument (my_judge, My-Judge and srum-my-judge are my-judge).

    Raises PluginError for an invalid name, or one that is taken."""
    name = text.lower().replace("_", "-").removeprefix("srum-")
    if not _WORDS.fullmatch(name):
        raise PluginError(
            f'A plugin cannot be called "{text}": a name begins with a letter and has letters, digits and single '
            "dashes, such as my-judge."
        )
    camel = "".join(word.capitalize() for word in name.split("-"))
    if keyword.iskeyword(name) or keyword.iskeyword(camel):
        raise PluginError(f'A plugin cannot be called "{text}", which is a word of Python itself. Choose another.')
    for offer in registry.listing():
        alike = offer.kind in (kind, KINDS[kind].also) or KINDS[offer.kind].also == kind
        if alike and offer.component.name == name:
            raise PluginError(f"{offer} has this name already. Choose another.")
    names = Names(kind, name, camel)
    if find_spec(names.package) is not None:
        raise PluginError(f"There is a package {names.package} in this environment already. Choose another name.")
    if hasattr(builtins, camel) or re.search(rf"\b{camel}\b", "".join(_templates(kind).values())):
        return Names(kind, name, camel + KINDS[kind].words.title().replace(" ", ""))  # its code uses that word itself
    return names


def write(names: Names, parent: Path) -> Path:
    """The package as a folder in `parent`; nothing is written if the folder is there. Raises PluginError."""
    folder = parent / names.distribution
    if folder.exists():
        raise PluginError(f"{folder} is there already. Choose another name, another --out, or move it away.")
    texts = {_place(names, path): names.fill(text) for path, text in _templates(names.kind).items()}
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def _templates(kind: str) -> dict[Path, str]:
    """By the path below the package's folder, without `.txt`; what all kinds share comes first."""
    about = (HERE / kind / "about.txt").read_text(encoding="utf-8").strip()
    shared = {"about": about, "command": TRY[kind]}
    texts = {}
    for base in (HERE / "common", HERE / kind):
        for path in sorted(base.rglob("*.*.txt")):
            text = path.read_text(encoding="utf-8")
            texts[path.relative_to(base).with_suffix("")] = Template(text).safe_substitute(shared)
    return texts


def _place(names: Names, path: Path) -> Path:
    """`package/` and `test_plugin.py` get the plugin's names."""
    parts = [names.package if part == "package" else part for part in path.parts]
    return Path(*parts[:-1], parts[-1].replace("test_plugin", f"test_{names.package.removeprefix('srum_')}"))
