"""Which package may import which (docs/decisions.md), read off the source: no module has to be imported for it."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHELVES = ("adapters", "judges", "losses", "benchmarks")
PLUGINS = {
    path.name: path for shelf in SHELVES for path in (ROOT / shelf).iterdir() if (path / "__init__.py").is_file()
}
HEAVY = {"torch", "transformers", "diffusers", "accelerate", "peft", "safetensors", "PIL", "numpy", "datasets"}
LIGHT_ROOT = ("__init__", "api", "records", "protocols", "errors", "options")
LIGHT_FILES = ("training/selection", "evaluation/tables", "models/images")
LIGHT_FOLDERS = ("plugins", "config", "runs", "cli", "evaluation", "interchange", "analysis")
HEAVY_WHEN_IMPORTED = ("stage.py", "__main__.py")  # entry points, and what a stage imports when it runs


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, run_time: bool = False) -> Iterator[tuple[str, str]]:
    """(module, top-level package) of every import; with `run_time`, only those that importing the file executes."""
    todo: list[ast.AST] = [parsed(path)]
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


def test_a_plugin_imports_the_core_and_no_other_plugin() -> None:
    inside = [(name, path) for name, folder in PLUGINS.items() for path in files(folder)]
    wrong = [(path, module) for name, path in inside for module, top in imports(path) if top in PLUGINS.keys() - {name}]
    assert not wrong


def test_nothing_shipped_imports_the_scripts_that_made_the_weights() -> None:
    shipped = [*files(ROOT / "srum_core"), *(path for folder in PLUGINS.values() for path in files(folder))]
    assert not [(path.name, module) for path in shipped for module, top in imports(path) if top == "pretraining"]


def light_files() -> list[Path]:
    core = [ROOT / "srum_core" / f"{name}.py" for name in (*LIGHT_ROOT, *LIGHT_FILES)]
    core += [path for folder in LIGHT_FOLDERS for path in files(ROOT / "srum_core" / folder)]
    return [*core, *(path / "__init__.py" for path in PLUGINS.values()), *files(PLUGINS["srum_judges"])]


def test_light_modules_import_nothing_heavy() -> None:
    assert not [
        (path, module) for path in light_files() for module, top in imports(path, run_time=True) if top in HEAVY
    ]


def test_no_module_needs_posix_to_be_imported() -> None:
    posix = {"fcntl", "grp", "pwd", "resource", "termios"}
    every = [*files(ROOT / "srum_core"), *(path for folder in PLUGINS.values() for path in files(folder))]
    assert not [(path.name, module) for path in every for module, top in imports(path, run_time=True) if top in posix]


LIGHT_CALLS = (
    "import srum_core.report",
    "import srum_losses, srum_judges.judges; srum_judges.judges.LocalRegions()",
    "import srum_remote.answerer",
    "import srum_benchmarks; srum_benchmarks.srum_prompts('shapes:test:8'); srum_benchmarks.srum_prompts('starter')",
    "from srum_core.cli.main import main, train_main; main(['plugins'])",
    "main(['new-plugin', 'judge', 'bad name'])",
    *(f"try: {call}\nexcept SystemExit: pass" for call in ("train_main(['--help'])", "main(['report', '--help'])")),
)
"""What people do before any model is needed."""


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    """In one process for all: the first step after which something heavy is there is at fault."""
    paths = [path for path in light_files() if path.stem not in ("__main__", "stage", "evaluation_stage")]
    clients = {"openai", "httpx"}  # a light module may import them, once a server is to be asked
    steps = [(call, HEAVY | clients) for call in LIGHT_CALLS]
    steps += [(f"import {_module(path)}", HEAVY) for path in paths]
    code = (
        f"import sys\nfor step, heavy in {steps}:\n    exec(step, globals())\n"
        "    if found := heavy & sys.modules.keys(): sys.exit(f'{step!r} imports {sorted(found)}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] in SHELVES else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# ---- the house -------------------------------------------------------------------------------------------------------

ROOT_FILES = {"__init__", "__main__", "api", "records", "errors", "flow", "protocols", "options"}
FEATURES = ("ablation", "analysis", "doctor", "interchange", "evaluation.commands")
LAYERS: tuple[tuple[str, ...], ...] = (
    ("records",), ("errors",), ("runs.files",), ("flow",), ("protocols",), ("options",), ("plugins",), ("config",),
    ("models",), ("runs",), ("stages.chunks", "stages.interview", "stages.serving"), ("training",),
    ("stages.generate", "stages.ground", "stages.judge", "stages.preflight"), ("evaluation",), ("stages",),
    ("report", "testing"), ("api",), ("cli",), (*FEATURES, "report.command"),
)  # fmt: skip
"""Lowest first. A module belongs to the longest of these names that it begins with."""


@cache
def graph() -> dict[str, set[str]]:
    """What every module of the core imports from it, at run time or for type checkers, anywhere in the file."""
    modules = {_module(path): path for path in files(ROOT / "srum_core")}
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        found[name] = set()
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names if alias.name in modules}
            elif isinstance(node, ast.ImportFrom) and node.module in modules:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= (inner & modules.keys()) or {node.module}
        found[name].discard(name)
    return found


def layer(module: str) -> int:
    inside = module.removeprefix("srum_core").removeprefix(".")
    fitting = [
        (len(name), place)
        for place, names in enumerate(LAYERS)
        for name in names
        if f"{inside}.".startswith(f"{name}.")
    ]
    assert fitting, f"{module} has no place in LAYERS"
    return max(fitting)[1]


def test_the_root_holds_what_is_on_the_list() -> None:
    assert {path.stem for path in (ROOT / "srum_core").glob("*.py")} == ROOT_FILES


def links() -> list[tuple[str, str]]:
    return [(name, other) for name, needs in graph().items() for other in needs]


def test_no_module_imports_upwards() -> None:
    root = ("srum_core", "srum_core.__main__")  # the public names, and the command line
    inner = [(name, other) for name, other in links() if name not in root and other not in root]
    assert not [(name, other) for name, other in inner if layer(other) > layer(name)]


def test_nothing_imports_a_feature_but_itself() -> None:
    def feature(module: str) -> str:
        return next((name for name in FEATURES if f"{module}.".startswith(f"srum_core.{name}.")), "")

    assert not [(name, other) for name, other in links() if feature(other) not in ("", feature(name))]


def test_no_modules_import_one_another_in_a_circle() -> None:
    needs = graph()
    while leaves := {name for name, others in needs.items() if not others & needs.keys()}:
        needs = {name: others for name, others in needs.items() if name not in leaves}
    assert not needs, f"a circle among {sorted(needs)}"


def test_every_folder_of_modules_is_a_package_that_git_knows() -> None:
    """A pattern of .gitignore that fits a package keeps it out of the wheel."""
    packages = {path.parent for folder in [ROOT / "srum_core", *PLUGINS.values()] for path in files(folder)}
    assert not [folder for folder in packages if not (folder / "__init__.py").is_file()]
    if (ROOT / ".git").exists():
        names = [str(folder / "__init__.py") for folder in sorted(packages)]
        ignored = subprocess.run(
            ["git", "check-ignore", "--no-index", *names], cwd=ROOT, capture_output=True, text=True
        )
        assert ignored.stdout == ""


def test_shelves_are_no_packages() -> None:
    """A top-level import package called `adapters` or `losses` would collide with other distributions."""
    assert not [shelf for shelf in SHELVES if (ROOT / shelf / "__init__.py").exists()]


def test_every_plugin_package_is_shipped_registered_and_typed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert shipped == {"srum_core", *(str(path.relative_to(ROOT)) for path in PLUGINS.values())}
    groups = project["project"]["entry-points"]
    elsewhere = {place.split(":")[0] for place in groups["lmms_eval.models"].values()}
    features = {value for value in groups["srum"].values() if value.startswith("srum_core.")}
    assert features == {f"srum_core.{name}" for name in (*FEATURES, "report")}
    assert {*groups["srum"].values(), *elsewhere} - features == PLUGINS.keys()
    assert all((path / "py.typed").is_file() for path in [ROOT / "srum_core", *PLUGINS.values()])


def test_parsed_arguments_stay_where_they_are_parsed() -> None:
    """A function that takes a Namespace reads it, or makes a plan of it (`of`, `from_parsed`); no other function has
    one."""
    wrong = []
    for path in files(ROOT / "srum_core"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            taken = {each.arg for each in function.args.args if "Namespace" in ast.unparse(each.annotation or each)}
            calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
            passed = {
                ast.unparse(call.func).split(".")[-1] for call in calls for each in call.args if _name(each) in taken
            }
            if passed - {"of", "from_parsed", "vars"}:
                wrong.append((path.name, function.name, passed))
    assert not wrong


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""
