"""Plugins as users meet them: distributions that are installed, broken in every way a plugin can be."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_plugins import install

from srum_core.cli.launching import exit_status
from srum_core.cli.main import main
from srum_core.config import describe, load_settings
from srum_core.errors import CheckpointError, ConfigError, PluginError, hide
from srum_core.options import Use
from srum_core.plugins import Registry, discover
from srum_core.plugins.hookspecs import KINDS
from srum_core.plugins.registry import members
from srum_core.protocols import UnifiedModel

ROOT = Path(__file__).parent.parent
HEAD = """
from attrs import field, frozen, validators
from srum_core import Component, hookimpl
"""
GOOD = (
    HEAD
    + """
from typing import Literal

@frozen
class Options:
    strict: bool = False
    level: int = field(default=1, validator=validators.ge(0))
    mood: Literal["calm", "cross"] = "calm"
    side: Literal[1, 2] = 1

@hookimpl
def srum_judges():
    return [Component("kind-judge", "good_parts:Kind", Options, summary="always kind")]
"""
)
RUDE = (
    HEAD
    + """
class Rude(BaseException):
    def __str__(self): raise SystemExit(0)
"""
)
PARTS = """
from srum_core.errors import CheckpointError

class Kind:
    def __init__(self, options): self.options = options
    def questions(self, candidate, regions): return []
    def scores(self, candidate, regions, answers): return []

class Bare:
    def questions(self, candidate, regions): return []
    def scores(self, candidate, regions, answers): return []

class Own(Kind):
    from attrs import define
    @define
    class Options:
        warmth: float = 0.5
"""
Install = Callable[..., Registry]


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install distributions given as name=(version, source[, modules]) and discover them."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)

    def make(**distributions: tuple) -> Registry:  # type: ignore[type-arg]
        for name, (version, *rest) in distributions.items():
            install(tmp_path, name.replace("_", "-"), version, *rest)
        importlib.invalidate_caches()
        return discover()

    yield make
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def judge(load: str, name: str = "mine") -> str:
    return f'{HEAD}\n@hookimpl\ndef srum_judges(): return [Component("{name}", "{load}")]\n'


def about(registry: Registry, distribution: str) -> str:
    """The one sentence about a distribution."""
    found = [sentence for sentence in registry.broken if distribution in sentence]
    assert len(found) == 1, registry.broken
    return found[0]


def test_a_good_plugin_works(plugins: Install) -> None:
    registry = plugins(good_plugin=("1.2", GOOD, {"good_parts": PARTS}))
    assert "good_parts" not in sys.modules  # lazily
    component = registry.component("judge", "kind-judge")
    assert component.summary == "always kind"
    made = registry.create("judge", Use("kind-judge", {"strict": True}), level=3)
    assert (made.options.strict, made.options.level) == (True, 3)
    assert registry.create("judge", {"use": "kind-judge", "mood": "cross"}).options.mood == "cross"
    assert registry.versions()["good-plugin"] == "1.2"
    offers = [(each.kind, each.plugin.distribution, each.plugin.version) for each in registry.listing()]
    assert ("judge", "good-plugin", "1.2") in offers
    assert not [sentence for sentence in registry.broken if "good-plugin" in sentence]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import not_there_at_all", ['needs the module "not_there_at_all"', "Install not_there_at_all"]),
        ("1 / 0", ["ZeroDivisionError: division by zero"]),
        ("import sys; sys.exit(3)", ["SystemExit"]),
        (
            HEAD + "@hookimpl\ndef srum_judgs(): return []",
            ['there is no hook "srum_judgs"', 'Did you mean "srum_judges"?', "srum_grounders"],
        ),
        (HEAD + "@hookimpl\ndef srum_drawers(): return []", ['Did you mean "srum_generators"?']),
        (HEAD + "@hookimpl\ndef srum_judges(model): return []", ["model", "can not be found in the hookspec"]),
        (HEAD + "def srum_judges(): return []", ["srum_judges is not marked as a hook", "@hookimpl"]),
        ("x = 1", ["implements no hook"]),
        (HEAD + "@hookimpl\ndef srum_judges(): return 3", ["srum_judges() returned int", "a list of Component"]),
        (HEAD + "@hookimpl\ndef srum_judges(): return ['x']", ["returned a str where a Component should be"]),
        (HEAD + "@hookimpl\ndef srum_judges(): raise KeyError('x')", ["KeyError: 'x'"]),
        (judge("no-colon"), ['load="no-colon"', 'should read "module:Class"']),
        (judge("a:B", "a:b"), ['called "a:b"', "no colon"]),
        (HEAD + "@hookimpl\ndef srum_judges(): return [Component('x', 'a:B', dict)]", ["not an attrs class"]),
        (
            HEAD + "@frozen\nclass O: use: int = 1\n@hookimpl\ndef srum_judges(): return [Component('x', 'a:B', O)]",
            ['an option called "use"'],
        ),
        (HEAD + "import sys\n@hookimpl\ndef srum_judges(): sys.exit(0)", ["SystemExit: 0"]),
        (RUDE + "@hookimpl\ndef srum_judges(): raise Rude", ["Rude: (Rude without a message)"]),
        (RUDE + "raise Rude", ["could not be loaded", "Rude without a message"]),
        (HEAD + "@hookimpl\ndef srum_judges(): yield; raise SystemExit(7)", ["SystemExit: 7"]),
        (HEAD + "@hookimpl\ndef srum_judges(): raise ValueError('a\\x1b[2Jb\\nc')", ["ValueError: a [2Jb c"]),
        (judge("a:B", "a\\n"), ["a name is printable"]),
        (HEAD + "@hookimpl\ndef srum_judges(): return [Component(3, 'a:B')]", ["'name' must be <class 'str'>"]),
        (HEAD + "@hookimpl\ndef srum_judges(): return [Component('x', 'a:B', summary=3)]", ["'summary' must be"]),
        (
            HEAD + "@hookimpl\ndef srum_judges(): return []\n@hookimpl\ndef srum_prompts(sauce): sys.exit()",
            ["sauce", "can not be found in the hookspec"],
        ),
    ],
)
def test_a_broken_plugin_is_a_sentence_and_the_others_work(plugins: Install, source: str, expected: list[str]) -> None:
    registry = plugins(bad_plugin=("0.3", source), good_plugin=("1.2", GOOD, {"good_parts": PARTS}))
    sentence = about(registry, "bad-plugin")
    for part in ['bad-plugin 0.3 (entry point "bad_plugin = bad_plugin")', *expected]:
        assert part in sentence
    assert registry.create("judge", "kind-judge")
    assert registry.prompts("nobody's") is None
    assert "bad-plugin" not in registry.versions()


DEFAULTS = {
    "no value of TOML": ("object()", "object"),
    "bytes": (r"b'\xff'", "bytes"),
    "not finite": ("float('inf')", "finite"),
    "NUL": (r"'a\0b'", "NUL"),
    "half a surrogate": (r"'\ud800'", "surrogate"),
    "a list in itself": ("LOOP", "recursion"),
    "what raises at everything": ("Angry()", "Rude without a message"),
}
ODD_DEFAULT = (
    RUDE
    + """
from typing import Any
from attrs import Factory
class Angry:
    def __getattribute__(self, name): raise Rude
LOOP = []
LOOP.append(LOOP)
@frozen
class Options:
    odd: Any = Factory(lambda: VALUE)
@hookimpl
def srum_judges(): return [Component("mine", "a:B", Options)]
"""
)


@pytest.mark.parametrize("fault", DEFAULTS)
def test_a_default_that_cannot_be_written_down_is_the_plugin_s_fault(plugins: Install, fault: str) -> None:
    value, expected = DEFAULTS[fault]
    registry = plugins(odd_plugin=("1", ODD_DEFAULT.replace("VALUE", value)))
    with pytest.raises(PluginError, match=f'"mine" of odd-plugin 1 .* has a default .*{expected}'):
        registry.options("judge", Use("mine"))


def test_a_name_that_raises_when_it_is_shown_is_a_plain_text_here(plugins: Install) -> None:
    odd = "class Odd(str):\n    def __str__(self): raise Rude\n    __repr__ = __format__ = __eq__ = __str__\n"
    odd += "    def __hash__(self): return 1\n"
    listed = "@hookimpl\ndef srum_judges(): return [Component(Odd('mine'), Odd('a:B'), summary=Odd('x'))]"
    registry = plugins(odd_plugin=("1", RUDE + odd + listed))
    assert "mine" in [found.component.name for found in registry.listing()]


def test_a_subclass_of_component_is_none(plugins: Install) -> None:
    odd = "class Odd(Component):\n    pass\n"
    odd += "@hookimpl\ndef srum_judges():\n    yield Odd('a', 'a:B')\n    Odd.__getattribute__ = None"
    registry = plugins(odd_plugin=("1", RUDE + odd))
    assert "returned a Odd where a Component" in about(registry, "odd-plugin")


def test_what_plugins_write_into_their_options_is_printable(plugins: Install) -> None:
    message = "Options:\n    a: str = '\\x9b2J\\u202e\\x1b'\n    '\\x1b]0;title'"
    registry = plugins(odd_plugin=("1", GOOD.replace("Options:", message, 1), {"good_parts": PARTS}))
    text = describe(load_settings("toy:ToyModel", (), None, ["judges=kind-judge"], registry), registry)
    assert text.replace("\n", "").isprintable()
    assert tomllib.loads(text)["judges"][0]["a"] == "\x9b2J\u202e\x1b"


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("entry_points.txt", b"[srum]\nbad_plugin\n", "metadata cannot be read"),
        ("entry_points.txt", b"\xff\xfe", "metadata cannot be read"),
        ("METADATA", b"\xff\xfe", "metadata cannot be read"),
        ("METADATA", b"", "names no Name and Version"),
        ("METADATA", None, "metadata cannot be read"),
    ],
)
def test_broken_metadata_costs_that_plugin_only(
    plugins: Install, tmp_path: Path, file: str, content: bytes | None, expected: str
) -> None:
    install(tmp_path, "bad-plugin", "0.3", GOOD.replace("kind-judge", "cross-judge"))
    damaged = tmp_path / "bad_plugin-0.3.dist-info" / file
    damaged.unlink() if content is None else damaged.write_bytes(content)
    registry = plugins(good_plugin=("1.2", GOOD, {"good_parts": PARTS}))
    assert expected in about(registry, "bad_plugin-0.3.dist-info")
    assert registry.create("judge", "kind-judge")
    assert registry.versions()["good-plugin"] == "1.2"


def test_words_that_look_like_markup_are_shown_as_they_are(
    plugins: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    plugins(
        odd=("1", HEAD + "@hookimpl\ndef srum_judges(): return [Component('o[/10]', 'a:B', summary='[/10] :cat:')]")
    )
    main(["plugins"])
    assert re.search(r"o\[/10\].*\[/10\] :cat:", capsys.readouterr().out)


def test_two_misspelt_plugins_are_both_told(plugins: Install) -> None:
    source = HEAD + "@hookimpl\ndef srum_promts(source): return None"
    registry = plugins(bad_one=("1", source), bad_two=("1", source))
    for name in ("bad-one", "bad-two"):
        assert 'Did you mean "srum_prompts"?' in about(registry, name)


def test_a_name_clash_takes_neither(plugins: Install) -> None:
    registry = plugins(
        good_plugin=("1.2", GOOD, {"good_parts": PARTS}), clashing=("2.0", judge("good_parts:Bare", "kind-judge"))
    )
    with pytest.raises(PluginError) as caught:
        registry.create("judge", "kind-judge")
    assert str(caught.value) in registry.broken
    for part in ("good-plugin 1.2", "clashing 2.0", '"good_parts:Kind"', '"good_parts:Bare"', "neither is taken"):
        assert part in str(caught.value)
    assert not [found for found in registry.listing() if found.component.name == "kind-judge"]
    assert registry.create("judge", "good_parts:Bare")  # the way out that the sentence names


def test_the_same_module_twice_is_told(plugins: Install, tmp_path: Path) -> None:
    install(tmp_path, "twice", "1", GOOD)
    (tmp_path / "twice-1.dist-info" / "entry_points.txt").write_text("[srum]\na = twice\nb = twice\n")
    assert 'its module is the one of twice 1 (entry point "a = twice")' in about(plugins(), "twice")


def test_an_unknown_name(plugins: Install) -> None:
    registry = plugins(good_plugin=("1.2", GOOD), bad_plugin=("0.3", "1 / 0"))
    with pytest.raises(PluginError) as caught:
        registry.component("judge", "kind-juge")
    for part in (
        'judge "kind-juge"',
        'Did you mean "kind-judge"?',
        "There are ",
        "ZeroDivisionError",
        '"module:Class"',
    ):
        assert part in str(caught.value)


INCOMPLETE = """
from srum_core.protocols import Judge

class Short:
    def questions(self, candidate, regions): return []
    def score(self, candidate, regions, answers): return []

class Inherits(Judge):
    def questions(self, candidate, regions): return []

class Late:
    scores: object  # announced, so the class is let through, but never set
    def questions(self, candidate, regions): return []

class Sets:
    scores: object
    def __init__(self): self.scores = lambda *_: []
    def questions(self, candidate, regions): return []

class Delegates:
    def __getattr__(self, name):
        if name.startswith("_"): raise AttributeError(name)
        return lambda *_: []

class Costly:
    def __init__(self): raise MemoryError("this was to be found out before")
    def questions(self, candidate, regions): return []

def factory(): return Sets()
def stub_factory(): return Inherits()
def bad_factory(): return object()
thing = 3
"""


@pytest.mark.parametrize("name", ["Short", "Inherits", "Late", "Costly", "stub_factory"])
def test_an_incomplete_class(plugins: Install, name: str) -> None:
    registry = plugins(partial_judge=("0.1", judge(f"partial_parts:{name}"), {"partial_parts": INCOMPLETE}))
    with pytest.raises(PluginError) as caught:
        registry.create("judge", "mine")
    expected = ['"mine" of partial-judge 0.1', 'entry point "partial_judge = partial_judge"', "no scores(...)"]
    for part in [*expected, "srum_core.protocols.Judge", *(['Is "score" a misspelling?'] if name == "Short" else [])]:
        assert part in str(caught.value)
    assert "questions" not in str(caught.value)


@pytest.mark.parametrize("name", ["Sets", "Delegates", "factory"])
def test_members_may_be_given_in_other_ways(plugins: Install, name: str) -> None:
    registry = plugins(partial_judge=("0.1", judge(f"partial_parts:{name}"), {"partial_parts": INCOMPLETE}))
    assert registry.create("judge", "mine")


def test_what_a_factory_makes_is_checked(plugins: Install) -> None:
    registry = plugins(partial_judge=("0.1", judge("partial_parts:bad_factory"), {"partial_parts": INCOMPLETE}))
    with pytest.raises(PluginError, match=r"no questions\(...\), scores\(...\)"):
        registry.create("judge", "mine")
    with pytest.raises(PluginError, match="partial_parts:thing is no class"):
        registry.create("judge", "partial_parts:thing")


@pytest.mark.parametrize("kind", ["map", "loss"])
def test_a_class_is_not_callable_just_because_classes_are(plugins: Install, kind: str) -> None:
    plugins(empty_parts=("1", "class Empty: pass"))
    with pytest.raises(PluginError, match=r"no __call__\(...\)"):
        discover().create(kind, "empty_parts:Empty")


ADAPTER = """
class Model:
    recipe = None
    def __init__(self): pass
    def answer(self, questions): return []
    def generate(self, prompts, seeds): return []
    def encode(self, images): return []
    def condition(self, texts): return None
    def save(self, directory, weights): pass

class Whole(Model):
    def __init__(self): self.denoiser = object()
"""


def test_data_members_are_looked_for_on_the_instance(plugins: Install) -> None:
    registry = plugins(adapter_parts=("1", ADAPTER))
    assert registry.create("adapter", "adapter_parts:Whole")
    with pytest.raises(PluginError, match=r"has no denoiser, which srum_core\.protocols\.UnifiedModel asks for"):
        registry.create("adapter", "adapter_parts:Model")
    assert set(members(UnifiedModel)[1]) == {"denoiser", "recipe"}
    assert set(members(UnifiedModel)[0]) == {"answer", "generate", "encode", "condition", "save"}


WRONG_OPTIONS = [
    ({"strct": True}, 'strct is not a setting. Did you mean "strict"?'),
    ({"level": "high"}, 'level should be a whole number, but it is the text "high".'),
    ({"level": -1}, "level must be >= 0: -1"),
    ({"mood": "crass"}, 'mood should be one of calm, cross, but it is the text "crass". Did you mean "cross"?'),
    ({"side": True}, "side should be one of 1, 2, but it is true."),
    ({"strict": 1, "level": True, "odd": 0}, "strict should be true or false, but it is 1."),
    ({"strict": 1, "level": True, "odd": 0}, "level should be a whole number, but it is true."),
    ({"strict": 1, "level": True, "odd": 0}, "odd is not a setting."),
]


def test_wrong_options(plugins: Install, subtests: pytest.Subtests) -> None:
    registry = plugins(good_plugin=("1.2", GOOD, {"good_parts": "1 / 0"}))  # so that importing it would fail
    for options, expected in WRONG_OPTIONS:
        with subtests.test(expected):
            with pytest.raises(ConfigError, match=r'"kind-judge" of good-plugin 1\.2') as caught:
                registry.create("judge", Use("kind-judge", options))
            assert expected in str(caught.value)


def test_options_where_there_are_none(plugins: Install) -> None:
    registry = plugins(plain_judge=("1", judge("good_parts:Bare"), {"good_parts": PARTS}))
    with pytest.raises(ConfigError, match='level is not a setting: the judge "mine" has none'):
        registry.create("judge", Use("mine", {"level": 1}))


CONSTRUCTORS = """
from srum_core.errors import CheckpointError

class Fails:
    def __init__(self): raise OSError("no such device")
    def questions(self, candidate, regions): return []
    def scores(self, candidate, regions, answers): return []

class Takes(Fails):
    def __init__(self, one, two): pass

class Leaves(Fails):
    def __init__(self): raise SystemExit(0)

class Rude(Fails):
    class Rude(BaseException):
        def __str__(self): raise self
    def __init__(self): raise self.Rude

class Members:
    def __init__(self): pass
    def questions(self, candidate, regions): return []
    @property
    def scores(self): raise SystemExit(0)

class Says(Fails):
    def __init__(self): raise CheckpointError("There is no checkpoint here.")
"""


def test_a_constructor_that_fails(plugins: Install) -> None:
    registry = plugins(failing=("4", judge("failing_parts:Fails"), {"failing_parts": CONSTRUCTORS}))
    with pytest.raises(
        PluginError, match=r"of failing 4 .* could not be made without options: OSError: no such"
    ) as caught:
        registry.create("judge", "mine")
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(PluginError, match=r"TypeError: .*missing 2 required positional arguments"):
        registry.create("judge", "failing_parts:Takes")
    for name in ("Leaves", "Rude", "Members"):
        with pytest.raises(PluginError, match=f"failing_parts:{name}.*(SystemExit: 0|Rude without a message)"):
            registry.create("judge", f"failing_parts:{name}")
    with pytest.raises(CheckpointError, match=r"^There is no checkpoint here.$"):  # a sentence already
        registry.create("judge", "failing_parts:Says")


def test_use_as_an_import_path(plugins: Install) -> None:
    registry = plugins(good_parts=("1", PARTS))
    assert registry.create("judge", "good_parts:Bare")
    assert registry.create("judge", {"use": "good_parts:Own", "warmth": 1}).options.warmth == 1.0
    with pytest.raises(ConfigError, match='Did you mean "warmth"'):
        registry.create("judge", {"use": "good_parts:Own", "warmt": 1})


NOWHERE = [
    ("nowhere_at_all:Judge", "there is no module 'nowhere_at_all'"),
    ("good_parts.inner:Judge", "there is no module 'good_parts.inner'"),
    ("good_parts:Bear", 'good_parts has no "Bear". Did you mean "Bare"?'),
    ("needy_parts:Judge", 'needs the module "not_there_at_all"'),
    ("torn_parts:Judge", "torn_parts cannot be imported: SyntaxError"),
    ("good_parts:", 'should read "module:Class"'),
    (":Judge", 'should read "module:Class"'),
]


def test_an_import_path_that_leads_nowhere(plugins: Install, subtests: pytest.Subtests) -> None:
    others = {"needy_parts": "import not_there_at_all", "torn_parts": "def ("}
    registry = plugins(good_parts=("1", PARTS, others))
    for path, expected in NOWHERE:
        with subtests.test(path):
            with pytest.raises(PluginError, match=f'judge "{path}"') as caught:
                registry.create("judge", path)
            assert expected in str(caught.value)


def test_a_component_whose_class_is_gone_names_its_plugin(plugins: Install) -> None:
    registry = plugins(gone=("7", judge("gone_parts:Judge")))
    with pytest.raises(PluginError, match=r'"mine" of gone 7 \(entry point "gone = gone"\): there is no module'):
        registry.create("judge", "mine")


def test_types_that_are_only_there_for_checkers(plugins: Install) -> None:
    source = "from __future__ import annotations\n" + HEAD + "@frozen\nclass O:\n    x: Missing = 1\n"
    registry = plugins(vague=("1", source + "@hookimpl\ndef srum_maps_(): pass\n"))
    assert "vague" in about(registry, "vague")
    source += '@hookimpl\ndef srum_judges(): return [Component("mine", "a:B", O)]\n'
    with pytest.raises(PluginError, match=r"of dim 1 .*name 'Missing' is not defined"):
        plugins(dim=("1", source)).create("judge", "mine")


PROMPTS = (
    HEAD
    + """
from srum_core.records import Prompt

@hookimpl
def srum_prompts(source):
    if source == "mine": return [Prompt("1", "a red circle")]
    if source == "fails": raise OSError("no network")
    if source == "odd": return ["a red circle"]
    if source == "leaves": raise SystemExit(0)
    if source == "lazily": return (Prompt(text, text) for text in ("a cat", "a dog"))

@hookimpl
def srum_metrics(metrics):
    metrics["seen"] = True

@hookimpl
def srum_stage_finished(stage):
    raise SystemExit(0)
"""
)


def test_prompts_and_events(plugins: Install) -> None:
    registry = plugins(words=("5", PROMPTS), good_plugin=("1.2", GOOD))
    assert [prompt.text for prompt in registry.prompts("mine") or ()] == ["a red circle"]
    assert registry.prompts("somebody-else-altogether") is None
    with pytest.raises(PluginError, match=r'words 5 .* failed at giving the prompts "fails": OSError: no network'):
        registry.prompts("fails")
    with pytest.raises(PluginError, match="not a Prompt"):
        registry.prompts("odd")
    with pytest.raises(PluginError, match=r"words 5 .* SystemExit: 0"):
        registry.prompts("leaves")
    assert [prompt.text for prompt in registry.prompts("lazily") or ()] == ["a cat", "a dog"]
    metrics: dict[str, object] = {}
    assert registry.notify("srum_metrics", run=None, metrics=metrics) == []
    assert metrics == {"seen": True}
    (message,) = registry.notify("srum_stage_finished", run=None, stage="train", round=1)
    assert "words 5" in message
    assert "not called again: SystemExit: 0" in message
    assert registry.notify("srum_stage_finished", run=None, stage="train", round=1) == []


def test_a_plugin_that_fails_at_prompts_does_not_keep_others_from_theirs(plugins: Install) -> None:
    leaves = HEAD + "import sys\n@hookimpl\ndef srum_prompts(source): sys.exit(0)"
    registry = plugins(aaa=("5", PROMPTS), leaving=("1", leaves), zzz=("1", leaves))
    assert [prompt.text for prompt in registry.prompts("mine") or ()] == ["a red circle"]
    assert "SystemExit: 0" in about(registry, "leaving")


COMMAND = """
from srum_core import hookimpl
@hookimpl
def srum_commands(subparsers): subparsers.add_parser("greet", help="say hello", module="greet_command")
"""
GREET = """
'Say hello as often as is asked for.'
def arguments(parser):
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("names", nargs="*")
def run(parsed):
    print(*["hello", *parsed.names] * parsed.times)
    return 3
"""
OWN_WAY = """
from srum_core import hookimpl
def part(parsed):
    print("goodbye")
@hookimpl
def srum_commands(subparsers): subparsers.add_parser("part").set_defaults(execute=lambda parsed: part(parsed) or 0)
"""


def test_a_plugin_adds_commands(plugins: Install, capsys: pytest.CaptureFixture[str]) -> None:
    plugins(greeter=("1", COMMAND, {"greet_command": GREET}), parter=("1", OWN_WAY))
    assert main(["greet", "you", "--times", "2", "all"]) == 3
    assert capsys.readouterr().out == "hello you all hello you all\n"
    assert main(["part"]) == 0
    for words, shown in ((["--help"], "say hello"), (["greet", "--help"], "as often as is asked for")):
        with pytest.raises(SystemExit, match="0"):
            main(words)
        assert shown in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["greet", "--tims", "2"])
    assert 'Did you mean "--times"?' in capsys.readouterr().err


def test_an_installation_that_is_older_than_the_code_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Registry, "add_commands", lambda self, subparsers: [])
    with pytest.raises(SystemExit, match="2"):
        main(["eval", "--help"])
    assert "Install it again" in capsys.readouterr().err


def test_a_command_is_imported_when_it_is_used(plugins: Install, capsys: pytest.CaptureFixture[str]) -> None:
    plugins(greeter=("1", COMMAND, {"greet_command": GREET}))
    main(["plugins"])
    assert "greet_command" not in sys.modules
    main(["greet"])
    assert "greet_command" in sys.modules


@pytest.mark.parametrize("fault", ['raise OSError("no disk")', 'subparsers.add_parser("eval")'])
def test_commands_that_cannot_be_added_cost_no_other(
    plugins: Install, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"from srum_core import hookimpl\n@hookimpl\ndef srum_commands(subparsers): {fault}\n"
    plugins(faulty=("1", source), parter=("1", OWN_WAY))
    assert main(["part"]) == 0
    message = capsys.readouterr().err
    assert "The commands of faulty 1" in message
    assert "no disk" in message or "eval" in message
    with pytest.raises(SystemExit, match="0"):
        main(["eval", "--help"])
    assert "srum eval run" in capsys.readouterr().out


def test_a_command_that_a_plugin_ends_does_not_end_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(lambda: sys.exit(0)) == 2
    assert re.search(r"test_plugins\.py, line \d+ called sys\.exit\(0\)", capsys.readouterr().err)


HEAVY = ("torch", "transformers", "PIL", "numpy")


def test_a_traceback_is_as_safe_as_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    hide("sk-in-a-traceback")

    def work() -> int:
        raise ZeroDivisionError("\x1b[2J\x9b2J sk-in-a-traceback")

    with pytest.raises(ZeroDivisionError) as caught:
        exit_status(work)
    sys.excepthook(caught.type, caught.value, caught.tb)
    shown = capsys.readouterr().err
    assert "in work\n" in shown
    assert "ZeroDivisionError:  [2J 2J (hidden)" in shown
    assert shown.replace("\n", "").isprintable()


def test_discovery_is_light(tmp_path: Path) -> None:
    """The plugins of this distribution, through their real entry points, in a fresh process: nothing heavy loads."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = "".join(f"{name} = {module}\n" for name, module in project["entry-points"]["srum"].items())
    install(tmp_path, "srum", project["version"], "")
    (tmp_path / "srum.py").unlink()
    (tmp_path / "srum-0.1.0.dist-info" / "entry_points.txt").write_text(f"[srum]\n{points}")
    code = f"""
import sys
sys.path[:0] = {[str(tmp_path), *(str(ROOT / each) for each in ("", "adapters", "judges", "losses", "benchmarks"))]}
from srum_core.plugins import discover
from srum_core.config import load_settings
registry = discover()
assert not registry.broken, registry.broken
load_settings("bagel", [], None, [], registry)
print(*(name for name in {HEAVY} if name in sys.modules))
print(*sorted({{found.kind for found in registry.listing()}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heavy, kinds = done.stdout.split("\n")[:2]
    assert heavy == ""
    assert set(kinds.split()) == set(KINDS)
