"""Settings out of presets, files and KEY=VALUE, with plugins that are installed for the test only."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from fake_plugins import install
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows import each_row

from srum_core.config import Settings, Train, describe, load_settings, open_settings, to_toml
from srum_core.config.load import _ELSEWHERE, _names
from srum_core.config.toml import knob_docs
from srum_core.errors import ConfigError
from srum_core.options import Use
from srum_core.plugins import Registry, discover, discovery
from srum_core.plugins import registry as registry_module
from srum_core.runs.run import Run

PLUGIN = '''
from __future__ import annotations
from pathlib import Path
from typing import Any, Literal
from attrs import field, frozen, validators
from srum_core import Component, hookimpl

@frozen
class Sampling:
    steps: int = field(default=50, validator=validators.ge(2))
    """Points of the time grid."""
    interval: tuple[float, float] = (0.4, 1.0)

@frozen
class AdapterOptions:
    checkpoint: str = "hub/model"
    """A directory or a hub id."""
    cache: Path = Path("cache")
    size: Literal["auto"] | int = "auto"
    seed: int | None = None
    sampling: Sampling = Sampling()
    words: dict[str, str] = field(factory=dict)
    more: dict[str, Any] = field(factory=dict)

@frozen
class MapOptions:
    outside: float = field(default=0.0, validator=[validators.ge(-1), validators.le(1)])
    """Weight outside every box."""
    overlap: Literal["mean", "max"] = "mean"

@frozen
class JudgeOptions:
    think: bool = True
    names: tuple[str, ...] = ()

@frozen
class Between:
    low: int = 0
    high: int = 9
    def __attrs_post_init__(self):
        if self.low > self.high: raise ValueError("the bounds are crossed")

HERE = Path(__file__).parent

@hookimpl
def srum_adapters():
    presets = {name: HERE / f"{name}.toml" for name in ("tiny", "released", "torn", "wrong")}
    return [
        Component("fake", "nowhere:Fake", AdapterOptions, presets=presets),
        Component("other", "nowhere:Other", presets={"default": HERE / "default.toml"}),
    ]

@hookimpl
def srum_grounders(): return [Component("grid", "nowhere:Grid"), Component("between", "nowhere:B", Between)]

@hookimpl
def srum_judges(): return [Component(name, "nowhere:J", JudgeOptions) for name in ("global-layout", "local-regions")]

@hookimpl
def srum_reward_maps(): return [Component(name, "nowhere:M", MapOptions) for name in ("paper", "sparse")]

@hookimpl
def srum_losses(): return [Component("srum", "nowhere:L")]

@hookimpl
def srum_answerers(): return [Component("scripted", "nowhere:A")]
'''
PRESETS = {
    "tiny": '[adapter]\ncheckpoint = "bundled:tiny"\n[adapter.sampling]\nsteps = 12\n[train]\nlr = 1e-3\nwarmup = 5\n',
    "released": 'map = {use = "sparse", outside = 0.5}\n[train]\nlr = 2e-5\n',
    "torn": "train = [",
    "wrong": "[train]\nlrr = 1\n",
    "default": 'grounder = {use = "between", low = 3}\n',
}
Load = Callable[..., Settings]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Only the plugin above, whatever is installed here."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "fake-plugin", "0.7", PLUGIN)
    for name, text in PRESETS.items():
        (folder / f"{name}.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        only = list(importlib.metadata.distributions(path=[str(folder)]))
        patch.setattr(discovery, "distributions", lambda: only)
        found = discover()
    assert found.broken == []
    return found


@pytest.fixture(scope="module")
def load(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Load:
    folder = tmp_path_factory.mktemp("files")

    def make(*overrides: str, adapter: str | None = "fake", presets: tuple[str, ...] = (), file: str = "") -> Settings:
        path = folder / "my.toml"
        path.write_text(file)
        return load_settings(adapter, presets, path if file else None, overrides, registry)

    return make


def refused(load: Load, *overrides: str, **others: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(*overrides, **others)
    return str(caught.value).split("\n  - ")[1:]


# ---- defaults and layers --------------------------------------------------------------------------------------------


def test_defaults_are_the_papers(load: Load) -> None:
    train = load().train
    assert (train.beta1, train.beta2, train.eps, train.lr) == (0.9, 0.95, 1e-15, 2.5e-5)
    assert (train.weight_decay, train.clip, train.warmup, train.shift) == (0.0, 1.0, -1, 4.0)
    assert (train.method, train.text_dropout, train.ema) == ("lora", 0.1, 0.0)


def test_every_knob_says_what_it_is() -> None:
    sections = [type(field.default) for field in attrs.fields(Settings) if attrs.has(type(field.default))]
    assert len(sections) == 7
    for kind in sections:
        assert set(knob_docs(kind)) == {field.name for field in attrs.fields(kind)}
    assert set(knob_docs(Settings)) == {
        field.name for field in attrs.fields(Settings) if not attrs.has(type(field.default))
    }


def test_later_layers_win(load: Load) -> None:
    assert load().train.lr == 2.5e-5
    assert load(presets=("tiny",)).train.lr == 1e-3
    assert load(presets=("tiny", "released")).train.lr == 2e-5
    assert load(presets=("released", "tiny")).train.lr == 1e-3
    assert load(presets=("tiny",), file="train.lr = 1e-4").train.lr == 1e-4
    assert load("train.lr=1e-6", presets=("tiny",), file="train.lr = 1e-4").train.lr == 1e-6
    mixed = load("train.lr=1e-6", presets=("tiny",), file="rounds = 3")
    assert (mixed.train.warmup, mixed.rounds, mixed.seed) == (5, 3, 0)  # each from its own layer


def test_a_preset_called_default_is_applied_by_itself(load: Load) -> None:
    assert load(adapter="other").grounder == Use("between", {"low": 3, "high": 9})
    assert load("grounder.low=4", adapter="other").grounder.options["low"] == 4


@each_row(
    "text, path, value",
    [
        ("train.lr=1e-5", "train.lr", 1e-5),
        ("train.lr=1", "train.lr", 1.0),
        ("lora.rank=32", "lora.rank", 32),
        ("evaluate.before=false", "evaluate.before", False),
        ("train.trackers=['wandb']", "train.trackers", ("wandb",)),
        ("train.method=full", "train.method", "full"),
        ('train.method="full"', "train.method", "full"),
        ("prompts=data/my prompts=2.txt", "prompts", "data/my prompts=2.txt"),
        (" train . lr =1e-5", "train.lr", 1e-5),
        ("prompts='2024'", "prompts", "2024"),
        ("prompts=1\nseed = 3", "prompts", "1\nseed = 3"),
    ],
)
def test_one_override(load: Load, text: str, path: str, value: object) -> None:
    made: object = load(text)
    for part in path.split("."):
        made = getattr(made, part)
    assert made == value
    assert type(made) is type(value)


def test_components_in_every_form(load: Load) -> None:
    assert load("adapter.checkpoint=/models/mine").adapter.options["checkpoint"] == "/models/mine"
    assert load("adapter.sampling.steps=4").adapter.options["sampling"] == {"steps": 4, "interval": [0.4, 1.0]}
    assert load("map=sparse").map == Use("sparse", {"outside": 0.0, "overlap": "mean"})
    assert load("map={use='sparse', outside=1}").map.options["outside"] == 1.0
    assert load("map.outside=0.25").map == Use("paper", {"outside": 0.25, "overlap": "mean"})
    assert load("map.outside=0.25", "map=sparse").map == Use("sparse", {"outside": 0.25, "overlap": "mean"})
    assert load("judges=['local-regions']").judges == (Use("local-regions", {"think": True, "names": []}),)
    assert load("judges=[{use='local-regions', think=false}]").judges[0].options["think"] is False
    assert load().answerer is None
    assert load("answerer=scripted").answerer == Use("scripted", {})
    assert load("answerer=", file='answerer = "scripted"').answerer is None


def test_one_judge_of_several_can_be_changed(load: Load) -> None:
    made = load("judges.1.think=false").judges
    assert [(use.use, use.options["think"]) for use in made] == [("global-layout", True), ("local-regions", False)]
    assert load("judges.1=global-layout").judges[1].use == "global-layout"
    assert "judges" in refused(load, "judges.2.think=false")[0]


def test_another_component_drops_the_options_of_the_one_before(load: Load) -> None:
    assert load(presets=("released",)).map.options["outside"] == 0.5
    assert load("map.overlap=max", presets=("released",)).map.options == {"outside": 0.5, "overlap": "max"}
    assert load("map=sparse", presets=("released",)).map.options["outside"] == 0.5  # the same one
    assert load("map=paper", presets=("released",)).map == Use("paper", {"outside": 0.0, "overlap": "mean"})
    dropped = load("map=paper", file='map = {use = "sparse", typo = 1}')
    assert dropped.map.use == "paper"


def test_where_the_adapter_is_named(load: Load) -> None:
    assert load(adapter=None, file='adapter = "fake"').adapter.use == "fake"
    assert load("adapter=fake", adapter=None).adapter.use == "fake"
    assert load("adapter=fake", adapter=None, presets=("tiny",)).adapter.options["checkpoint"] == "bundled:tiny"
    assert load(file='adapter = {use = "fake", checkpoint = "x"}').adapter.options["checkpoint"] == "x"
    assert refused(load, file='adapter = "other"')[0].startswith('--adapter fake contradicts adapter = "other" in ')
    assert refused(load, adapter=None) == ["No adapter is named. Add --adapter NAME; installed are: fake, other."]
    nearby = refused(load, adapter="fakee")
    assert len(nearby) == 1
    assert nearby[0].startswith("adapter (on the command line)")
    assert 'adapter "fakee". Did you mean "fake"? There are fake, other.' in nearby[0]


# ---- what is wrong --------------------------------------------------------------------------------------------------


def test_everything_wrong_is_told_at_once(load: Load) -> None:
    file = """
    sed = 1
    [train]
    lrr = 1
    beta1 = 1.5
    warmup = "long"
    [adapter]
    chekpoint = "x"
    sampling = {steps = 1, interval = [0.5]}
    """
    overrides = ["train.clip=-1", "map=papr", "rounds=0", "judges=[{use='mine'}, 3]", "lr=1", "loss.x=1", "nonsense"]
    found = refused(load, *overrides, presets=("wrong", "torn", "tinny"), file=file)
    here, line = "my.toml)", "(on the command line)"
    expected = [
        (here, "train.lrr", 'is not a setting. Did you mean "lr"?'),
        (here, "sed", 'is not a setting. Did you mean "seed"?'),
        (here, "train.beta1", "must be < 1: 1.5"),
        (here, "train.warmup", 'should be a whole number, but it is the text "long".'),
        (here, "adapter.chekpoint", 'Did you mean "checkpoint"?'),
        (here, "adapter.sampling.steps", "must be >= 2: 1"),
        (here, "adapter.sampling.interval", "should be a list of 2 entries, but it has 1."),
        (line, "train.clip", "must be >= 0: -1.0"),
        (line, "map", 'cannot be "papr". No installed plugin offers the reward map "papr". Did you mean "paper"?'),
        (line, "rounds", "must be >= 1: 0"),
        (line, "judges.0", 'cannot be "mine"'),
        (line, "judges.1", "should be a name, or a table"),
        (line, "lr", 'is not a setting. Did you mean "train.lr"?'),
        (line, "loss.x", 'the loss "srum" has none'),
        ("on the command line", '"nonsense"', "should read KEY=VALUE"),
        ("torn.toml", "", "is not TOML"),
        ("", 'no preset "tinny"', 'Did you mean "tiny"? There are released, tiny, torn, wrong.'),
    ]
    for where, path, text in expected:
        assert [each for each in found if where in each and path in each and text in each], (where, path, text, found)
    assert len(found) == len(expected), found


def test_the_layer_that_said_it_is_named(load: Load) -> None:
    assert refused(load, presets=("wrong",)) == [
        'train.lrr (in the preset "wrong" of fake) is not a setting. Did you mean "lr"?'
    ]
    assert refused(load, "train.lr=0", file="train.lr = -1")[0].startswith("train.lr (on the command line)")
    twice = refused(load, "map={use='sparse', outside=5}", file="map.outside = 3")
    assert len(twice) == 1
    assert twice[0].startswith("map.outside (on the command line)")
    assert load("train.lr=1", file="train.lr = -1").train.lr == 1  # what was put right later is not told
    assert refused(load, "grounder={use='between', low=9}", "grounder.high=3") == [
        "grounder (on the command line) cannot be used: the bounds are crossed"
    ]


@each_row(
    "text",
    [
        "seed=-1", "rounds=0", "prompts=", "generate.candidates=0", "generate.batch=0", "generate.limit=-1",
        "ground.batch=0", "judge.batch=0", "judge.retries=-1", "judge.temperature=0", "train.lr=0", "train.lr=nan",
        "train.beta1=1", "train.beta2=-0.1", "train.eps=0", "train.weight_decay=-1", "train.clip=-1",
        "train.warmup=-2", "train.steps=-1", "train.epochs=0", "train.max_cells=0", "train.accumulation=0",
        "train.text_dropout=1.1", "train.ema=1", "train.mixed_precision=fp16", "train.method=lorra",
        "train.checkpointing=1", "train.shift=-1", "train.save_every=0", "train.guard=-1", "train.trackers=['mlflow']",
        "train.trackers=wandb", "lora.rank=0", "lora.rank=1.5", "lora.alpha=0", "lora.dropout=1", "evaluate.split=",
        "evaluate.images=0", "evaluate.batch=0", "evaluate.limit=-1", "evaluate.before=yes", "judges=[]",
        "prompts=5", "train=3", "adapter=3", "adapter=", "map=", "adapter.cache=3", "adapter.size=big",
        "adapter.words={a=1}", "adapter.words=x", "generate.candidates=1000000000000", "rounds=1000000000",
        "judge.votes=1000000", "evaluate.images=1000000", "train.epochs=1000000", "train.steps=1000000000",
    ],
)  # fmt: skip
def test_out_of_range(load: Load, text: str) -> None:
    found = refused(load, text, adapter=None if text.startswith("adapter=") else "fake", file="")
    assert len(found) == 1, found
    assert found[0].startswith(text.split("=")[0]) or "No adapter is named" in found[0]


@each_row(
    "text, words",
    [
        ("train.lr=true", "train.lr (on the command line) should be a number, but it is true."),
        ("train.lr=1e400", "train.lr (on the command line) should be a finite number, but it is inf."),
        ("train.guard=inf", "train.guard (on the command line) should be a finite number"),
        ("train.shift=-nan", "train.shift (on the command line) should be a finite number"),
        ("train.lr=" + "1" * 400, "train.lr (on the command line) is too large"),
        ("seed=" + "1" * 30, "seed (on the command line) is too large"),
        ("seed=" + "1" * 5000, "should be a whole number, but it is the text"),
        ("seed=0x" + "f" * 5000, "seed (on the command line) is too large"),
        ("adapter.more={a=[1, inf]}", "adapter.more.a.1 (on the command line) should be a finite number"),
        ("adapter.more={a='\udcff'}", "adapter.more.a (on the command line) holds something that is no text"),
        ("train.trackers=" + "[" * 100000, "the value is not TOML: it is nested too deeply"),
        ("adapter.words=" + "{a=" * 100 + "1" + "}" * 100, "the value is not TOML: it is nested more than"),
        ("a." * 1000 + "b=1", "should read KEY=VALUE"),
        ("adapter.checkpoint=a\0b", "adapter.checkpoint (on the command line) holds a NUL character"),
        ('adapter.cache="a\\u0000b"', "adapter.cache (on the command line) holds a NUL character"),
        ("adapter.words={'a\udc80' = ''}", "holds something that is no text"),
        ("prompts=caf\udce9.txt", "prompts (on the command line) holds something that is no text"),
        ("prompts=['a', 'b\udce9']", "prompts.1 (on the command line) holds something that is no text"),
        ("judges=[{use='local-regions', names=['\udce9']}]", "judges.0.names.0 (on the command line) holds some"),
        ("prompts=['a', 1]", "prompts.1 (on the command line) should be a text, but it is 1"),
        ("train.stepz=nan", 'train.stepz (on the command line) is not a setting. Did you mean "steps"?'),
    ],
)
def test_values_that_nothing_can_use(load: Load, text: str, words: str) -> None:
    (found,) = refused(load, text)
    assert words in found
    assert len(found) < 400


@each_row(
    "text, meant",
    [
        ("lora.r=8", '"lora.rank"'), ("lora_rank=8", '"lora.rank"'), ("r=8", '"lora.rank"'), ("rank=8", '"lora.rank"'),
        ("adapter.release=true", '"adapter.offload"'),
        ("lora_alpha=8", '"lora.alpha"'), ("learning_rate=1", '"train.lr"'), ("train.Learning-Rate=1", '"train.lr"'),
        ("lr=1", '"train.lr"'), ("batch_size=1", '"train.max_cells"'), ("max_steps=1", '"train.steps"'),
        ("steps=1", '"train.steps"'), ("map.steps=1", '"train.steps"'), ("map.lambda=1", '"loss.constraint"'),
        ("constraint=1", '"loss.constraint"'), ("train.seed=1", '"seed"'), ("prompt=x", '"prompts"'),
        ("checkpoint=x", '"adapter.checkpoint"'), ("output_dir=x", '"--out"'), ("best_of=1", '"select.best_of"'),
        ("retries=1", '"ground.retries" or "judge.retries" or "evaluate.retries"'), ("train.wamup=1", '"warmup"'),
        ("train.cliip=1", '"clip"'), ("cliip=1", '"train.clip"'), ("map.outsid=1", '"outside"'),
    ],
)  # fmt: skip
def test_near_misses(load: Load, text: str, meant: str) -> None:
    (found,) = refused(load, text)
    assert found.startswith(f"{text.split('=')[0]} (on the command line) is not a setting. Did you mean {meant}?")


def test_a_single_judge_needs_no_list(load: Load) -> None:
    expected = (Use("local-regions", {"think": True, "names": []}),)
    assert load("judges=local-regions").judges == load(file='judges = "local-regions"').judges == expected
    assert load("judges={use='local-regions', think=false}").judges[0].options["think"] is False


def test_other_names_are_of_settings_that_exist() -> None:
    other = {
        "loss.constraint",
        "adapter.checkpoint",
        "adapter.size",
        "adapter.device",
        "adapter.offload",
        "adapter.sampling",
        "adapter.generation_sides",
        "--out",
        "map",
    }
    assert _ELSEWHERE.keys() - set(_names()) <= other
    words = " ".join(_ELSEWHERE.values()).split()
    assert len(words) == len(set(words))


def test_prompts_may_be_given_as_a_list(load: Load, registry: Registry, tmp_path: Path) -> None:
    made = load("prompts=['a cat', 'a \\\"dog\\\", \u00e9']")
    assert made.prompts == ("a cat", 'a \\"dog\\", \u00e9')
    for text in (to_toml(made), describe(made, registry)):
        (tmp_path / "run.toml").write_text(text, encoding="utf-8")
        assert open_settings(tmp_path / "run.toml", registry) == made


@each_row("text", ["train.lr", "=1", "train..lr=1", ".=1", "train.lr=[1", 'prompts="open', "map={use="])
def test_malformed_overrides(load: Load, text: str) -> None:
    assert len(refused(load, text)) == 1
    assert text in refused(load, text)[0]


def test_files_that_cannot_be_read(registry: Registry, tmp_path: Path) -> None:
    torn = tmp_path / "torn.toml"
    torn.write_text("seed = 1\nseed = 2\n")
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "deep.toml").write_text("a=" + "[" * 100000)
    (tmp_path / "long.toml").write_text("seed=" + "1" * 5000)
    (tmp_path / "latin.toml").write_bytes(b"prompts='\xe9'")
    faults = [(tmp_path / "pipe.toml", "is a device or a pipe"), (Path("/dev/zero"), "is a device or a pipe")]
    faults += [(tmp_path / "deep.toml", "is not TOML: it is nested"), (tmp_path / "latin.toml", "is not UTF-8 text")]
    faults += [(tmp_path / "long.toml", "is not TOML: Exceeds"), (Path("x" * 5000), "File name too long")]
    faults += [(torn, "is not TOML"), (tmp_path, "it is a folder"), (tmp_path / "no.toml", "No such file")]
    for path, text in faults:
        with pytest.raises(ConfigError, match=text) as caught:
            load_settings(None, (), path, ["train.lr=-1"], registry)
        assert str(path)[:200] in str(caught.value)
        assert "train.lr" in str(caught.value)
        assert "No adapter" not in str(caught.value)  # the file may well name one


# ---- back to TOML ---------------------------------------------------------------------------------------------------


EVERYTHING = [
    "rounds=2", "train.lr=1e-15", "train.trackers=['wandb']", "answerer=scripted", "judges.0.names=['a', 'b\"c']",
    "adapter.cache=/tmp/ä b", "adapter.size=3", "adapter.words={'a key' = 'x', b = ''}", "adapter.sampling.steps=7",
    "map=sparse", "prompts=a'b\"c\\n.txt",
]  # fmt: skip


@pytest.mark.parametrize("overrides", [[], EVERYTHING])
def test_run_toml_repeats_the_run(load: Load, registry: Registry, tmp_path: Path, overrides: list[str]) -> None:
    made = load(*overrides, presets=("tiny", "released"))
    path = tmp_path / "run.toml"
    for text in (to_toml(made), to_toml(made, registry.versions()), describe(made, registry)):
        path.write_text(text, encoding="utf-8")
        assert open_settings(path, registry) == made
        assert load_settings("fake", (), path, (), registry) == made
        assert load_settings("fake", ("tiny",), path, (), registry) == made  # a run.toml leaves nothing to a preset
    assert to_toml(open_settings(path, registry)) == to_toml(made)


def test_run_toml_holds_every_option_and_the_versions(load: Load, registry: Registry) -> None:
    data = tomllib.loads(to_toml(load(), registry.versions()))
    assert data["map"] == {"use": "paper", "outside": 0.0, "overlap": "mean"}
    assert data["adapter"]["sampling"] == {"steps": 50, "interval": [0.4, 1.0]}
    assert data["versions"] == registry.versions()
    assert data["versions"]["fake-plugin"] == "0.7"
    assert {"srum", "torch", "transformers", "diffusers", "peft"} <= data["versions"].keys()
    assert set(data) == {field.name for field in attrs.fields(Settings)} | {"versions"}


def test_a_checkout_names_its_commit_and_whether_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "__file__", str(tmp_path / "srum_core/plugins/registry.py"))
    commit = registry_module._commit.__wrapped__
    assert commit() == {}
    (tmp_path / "a.txt").write_text("a")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "a.txt"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    clean = commit()["srum-commit"]
    assert re.fullmatch("[0-9a-f]{40}", clean)
    (tmp_path / "a.txt").write_text("b")
    assert commit() == {"srum-commit": f"{clean}-dirty"}
    monkeypatch.setenv("PATH", "")
    assert commit() == {}


def test_other_versions_take_a_run_up_and_are_written_down(
    load: Load, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run.create(tmp_path / "run", load(), registry)
    newer = {**registry.versions(), "torch": "99.0", "srum-commit": "f" * 40}
    monkeypatch.setattr(Registry, "versions", lambda self: newer)
    Run.create(tmp_path / "run", load(), registry)
    assert tomllib.loads((tmp_path / "run/run.toml").read_text())["versions"] == newer
    Run.open(tmp_path / "run", registry).check()


def test_describe_is_the_same_with_comments(load: Load, registry: Registry) -> None:
    made = load(*EVERYTHING)
    text = describe(made, registry)
    assert tomllib.loads(text) == tomllib.loads(to_toml(made))
    for comment in [
        "# Learning rate of AdamW",
        "# Points of the time grid.\nsteps = 7",
        "# Weight outside every box.\noutside",
    ]:
        assert comment in text


numbers = st.floats(min_value=1e-300, max_value=1e300, allow_nan=False)


@given(
    lr=numbers,
    shift=numbers,
    seed=st.integers(0, 2**53),
    prompts=st.text(min_size=1).filter(lambda s: not {"\r", "\0"} & set(s)),
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_value_survives(load: Load, registry: Registry, tmp_path_factory, **values) -> None:  # type: ignore[no-untyped-def]
    train = Train(lr=values["lr"], shift=values["shift"])
    made = attrs.evolve(load(), train=train, seed=values["seed"], prompts=values["prompts"])
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(to_toml(made), encoding="utf-8", newline="")
    assert open_settings(path, registry) == made


def test_settings_are_frozen_and_light(load: Load) -> None:
    made = load()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.seed = 1  # type: ignore[misc]
    assert "nowhere" not in sys.modules  # no component was imported
