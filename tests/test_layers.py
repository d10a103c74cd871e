"""Which package may import which (docs/decisions.md), read off the source: no module has to be imported for it."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHELVES = ("adapters", "judges", "losses", "benchmarks")
PLUGINS = {
    path.name: path for shelf in SHELVES for path in (ROOT / shelf).iterdir() if (path / "__init__.py").is_file()
}
HEAVY = {"torch", "transformers", "diffusers", "accelerate", "peft", "safetensors", "PIL", "numpy", "datasets"}
LIGHT_CORE = [
    *("__init__", "records", "protocols", "hookspecs", "discovery", "loading", "plugins", "structuring", "settings"),
    *("settings_toml", "config", "store", "prompts", "run", "remembered", "cli", "errors", "progress", "boxes"),
    *("hearing", "pictures", "console", "selection", "window", "benchmarking", "launching", "tables", "fetching"),
    "preflight",
]
LIGHT_FOLDERS = ("commands", "evaluation", "interchange", "analysis")


def imports(path: Path, run_time: bool = False) -> Iterator[tuple[str, str]]:
    """(module, top-level package) of every import; with `run_time`, only those that importing the file executes."""
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if run_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if run_time and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.module.split(".")[0]
        todo += ast.iter_child_nodes(node)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def test_the_core_imports_no_plugin() -> None:
    assert len(PLUGINS) >= 4
    wrong = [
        (path.name, module) for path in files(ROOT / "srum_core") for module, top in imports(path) if top in PLUGINS
    ]
    assert not wrong


@pytest.mark.parametrize("name", sorted(PLUGINS))
def test_a_plugin_imports_the_core_and_no_other_plugin(name: str) -> None:
    others = PLUGINS.keys() - {name}
    assert not [(path.name, module) for path in files(PLUGINS[name]) for module, top in imports(path) if top in others]


def light_files() -> list[Path]:
    core = [ROOT / "srum_core" / f"{name}.py" for name in LIGHT_CORE]
    core += [path for folder in LIGHT_FOLDERS for path in files(ROOT / "srum_core" / folder)]
    return [*core, *(path / "__init__.py" for path in PLUGINS.values()), *files(PLUGINS["srum_judges"])]


@pytest.mark.parametrize("path", light_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_light_modules_import_nothing_heavy(path: Path) -> None:
    assert not [module for module, top in imports(path, run_time=True) if top in HEAVY]


def test_no_module_needs_posix_to_be_imported() -> None:
    posix = {"fcntl", "grp", "pwd", "resource", "termios"}
    every = [*files(ROOT / "srum_core"), *(path for folder in PLUGINS.values() for path in files(folder))]
    assert not [(path.name, module) for path in every for module, top in imports(path, run_time=True) if top in posix]


def test_importing_every_light_module_leaves_torch_out() -> None:
    names = [f"srum_core.{name}" for name in LIGHT_CORE if name != "__init__"] + sorted(PLUGINS)
    inner = [path for folder in LIGHT_FOLDERS for path in files(ROOT / "srum_core" / folder)]
    names += [f"srum_core.{path.parent.name}.{path.stem}" for path in inner if path.stem != "__init__"]
    loading = f"import sys\nfrom importlib import import_module\nfor name in {names}: import_module(name)\n"
    code = f"{loading}print(sorted({HEAVY} & sys.modules.keys()))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_shelves_are_no_packages() -> None:
    """A top-level import package called `adapters` or `losses` would collide with other distributions."""
    assert not [shelf for shelf in SHELVES if (ROOT / shelf / "__init__.py").exists()]


def test_every_plugin_package_is_shipped_registered_and_typed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert shipped == {"srum_core", *(str(path.relative_to(ROOT)) for path in PLUGINS.values())}
    groups = project["project"]["entry-points"]
    elsewhere = {place.split(":")[0] for place in groups["lmms_eval.models"].values()}
    assert {*groups["srum"].values(), *elsewhere} == PLUGINS.keys()
    assert all((path / "py.typed").is_file() for path in [ROOT / "srum_core", *PLUGINS.values()])
