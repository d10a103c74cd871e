"""`srum doctor --plan`: what is counted on the meta device is what really is allocated, and what it tells is so."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from PIL import Image
from rows import each_row
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from srum_bagel.memory_outline import CAPTION, QUESTION
from srum_bagel.model import Bagel
from srum_bagel.options import Options, Sampling
from srum_core import config, plugins
from srum_core.analysis.subjects import _Sum
from srum_core.cli.main import main
from srum_core.config.settings import Settings, Train
from srum_core.doctor.memory_meter import Metered, metered
from srum_core.doctor.plan import GIB, Device, Need, Planner
from srum_core.doctor.suggestions import _advice, fix, needs, together
from srum_core.errors import ConfigError
from srum_core.flow import Schedule, flow_step
from srum_core.models import small_memory
from srum_core.models.weights import Stored
from srum_core.options import Use
from srum_core.records import Question
from srum_core.runs.run import Run
from srum_core.training import lora
from srum_core.training.metrics import Tally
from srum_losses import objectives

GOLDENS = Path(__file__).parent / "golden"
BAGEL, BLIP3O, OMNIGEN2, SHOWO2 = (GOLDENS / name / "checkpoint" for name in ("bagel", "blip3o", "omnigen2", "showo2"))
LORA, FULL = {"method": "lora"}, {"method": "full"}


@pytest.fixture(scope="module")
def registry() -> plugins.Registry:
    return plugins.discover()


def planner(registry: plugins.Registry, folder: Path, gib: float = 80.0, kind: str = "cpu", **train: Any) -> Any:
    """(planner, settings) of two images of the golden BAGEL's size."""
    settings = config.load_settings("bagel", [], None, [f'adapter.checkpoint="{BAGEL}"'], registry)
    settings = attrs.evolve(settings, train=attrs.evolve(settings.train, **train))
    rows, columns, _ = Bagel.outline(Options(checkpoint=str(BAGEL)), "cpu").grid
    if "max_cells" not in train:
        settings = attrs.evolve(settings, train=attrs.evolve(settings.train, max_cells=2 * rows * columns))
    return Planner(registry, Device(kind, gib), Run(folder / "run", settings, registry)), settings


# ---- the meter -------------------------------------------------------------------------------------------------------


def test_allocations_are_counted_until_they_are_let_go_of() -> None:
    with torch.device("meta"):
        net, x = nn.Linear(10, 20), torch.zeros(5, 10)
    with metered() as found:
        y = net(x)
        assert found.now == 5 * 20 * 4  # neither weights nor input, nor views of them
        z = y.view(100)[10:]
        assert found.now == 5 * 20 * 4
        squared = z.square()
        assert found.now == (100 + 90) * 4
        del squared
        assert (found.now, found.peak) == (5 * 20 * 4, (100 + 90) * 4)
        assert bool((y > 0).all())  # a condition on values


def test_attention_is_fused() -> None:
    """No scores are kept: memory is linear in tokens, forwards and backwards, with fewer keys than queries too."""
    q, k = (torch.zeros(1, heads, 1000, 4, device="meta", requires_grad=True) for heads in (4, 2))
    with metered() as found:
        nn.functional.scaled_dot_product_attention(q, k, k, enable_gqa=True).sum().backward()
    assert q.grad is not None
    assert q.grad.shape == q.shape
    assert k.grad is not None
    assert k.grad.shape == k.shape
    assert found.peak < 1000 * 1000


def test_autocast_keeps_what_it_casts_while_it_lasts() -> None:
    """A float32 master weight has a bfloat16 copy, cast once; products are bfloat16."""
    with torch.device("meta"):
        net, x = nn.Linear(100, 100, bias=False), torch.zeros(1, 100)
    with metered(autocast=True) as found:
        y = net(net(x))
        assert y.dtype == torch.bfloat16
        assert 100 * 100 * 2 <= found.now < 100 * 100 * 2 + 2000
        found.backward(y.float().sum())
        del y
        assert 100 * 100 * 4 <= found.now < 100 * 100 * 4 + 2000  # the gradient, and no copy


# ---- predictions and what is really allocated ------------------------------------------------------------------------


class Really(TorchDispatchMode):
    """Counts what operations on real tensors allocate."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Metered()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, out = tree_leaves((args, kwargs)), func(*args, **(kwargs or {}))
        for tensors, count in ((given, self.found.know), (tree_leaves(out), self.found.add)):
            for each in tensors:
                if isinstance(each, Tensor):
                    count(each)
        return out


def really(settings: Settings, registry: plugins.Registry) -> tuple[int, lora.Tuned]:
    """Bytes that a step of the model with its weights allocates at its height."""
    model = Bagel(Options(**settings.adapter.options))
    tuned = lora.tune(model, settings.train.method, settings.lora, settings.train.checkpointing)
    objective = registry.create("loss", settings.loss)
    rows, columns, channels = Bagel.outline(Options(checkpoint=str(BAGEL)), "cpu").grid
    latents = [torch.randn(rows, columns, channels) for _ in range(2)]
    ids = [torch.ones(80, dtype=torch.long)] * 2
    with Really() as counted:
        objective(flow_step(tuned.module, latents, ids, torch.full((2,), 0.5), None, latents))[0].backward()
    return counted.found.peak, tuned


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_step_beside_quantised_weights_takes_what_was_predicted(
    registry: plugins.Registry, tmp_path: Path, kind: str
) -> None:
    pytest.importorskip("bitsandbytes")
    made, settings = planner(registry, tmp_path, **LORA)
    small = Use("bagel", {**settings.adapter.options, "quantize": kind})
    settings = attrs.evolve(settings, adapter=small)
    message: Need = made.train(settings)
    peak, tuned = really(settings, registry)
    assert message.weights - Bagel.outline(Options(**small.options), "cpu").parts["train"] == small_memory.size(
        tuned.module.parameters()
    )
    assert message.total - message.optimizer == pytest.approx(message.weights + peak, rel=0.05)


@pytest.mark.parametrize("train", [{**LORA, "checkpointing": True}, FULL], ids=str)
def test_a_step_takes_what_was_predicted(registry: plugins.Registry, tmp_path: Path, train: dict[str, Any]) -> None:
    made, settings = planner(registry, tmp_path, **train)
    message: Need = made.train(settings)
    peak, tuned = really(settings, registry)
    trained = sum(parameter.numel() for parameter in tuned.parameters.values())
    weights = sum(parameter.numel() * parameter.element_size() for parameter in tuned.module.parameters())
    assert message.gradients == 4 * trained
    assert message.weights - message.replicated == weights
    # Where blocks are recomputed, two tensors of queries are counted for longer than the kernel holds them.
    assert message.passing + message.gradients == pytest.approx(peak, rel=0.08)


@pytest.mark.parametrize("kind", ["none", "int8", "nf4"])
def test_generating_and_judging_take_what_was_predicted(tmp_path: Path, kind: str) -> None:
    """Two images; two answers of which one is short, so that the other's context is copied."""
    if kind != "none":
        pytest.importorskip("bitsandbytes")
    options = Options(
        checkpoint=str(BAGEL),
        quantize=kind,
        sampling=Sampling(steps=2),
        vision_sides=(224, 224),  # type: ignore[arg-type]
    )
    model, found = Bagel(options), Bagel.outline(options, "cpu")

    def text(tokens: int) -> str:
        return next(words for count in range(tokens) if len(model.chat.frame(words := "red " * count)) >= tokens)

    Image.new("RGB", (64, 64)).save(tmp_path / "image.png")
    asked = [Question(tmp_path / "image.png", text(QUESTION + n), max_new_tokens=new) for n, new in ((0, 2), (1, 200))]
    for work, planned in (
        (lambda: model.generate([text(CAPTION)] * 2, [0, 1]), lambda: found.generate(2)),  # type: ignore[misc]
        (lambda: model.answer(asked), lambda: found.judge(2, 200)),  # type: ignore[misc]
    ):
        with Really() as counted:
            work()
        assert height(planned) == pytest.approx(counted.found.peak, rel=0.05)


def test_what_settings_do_to_a_step(registry: plugins.Registry, tmp_path: Path) -> None:
    def train(**changed: Any) -> Need:
        made, settings = planner(registry, tmp_path, **changed)
        found: Need = made.train(settings)
        return found

    plain, less = train(), train(checkpointing=True, max_cells=1)  # one image by itself
    assert less.passing < 0.4 * plain.passing
    assert plain.optimizer == 2 * plain.gradients
    full = train(**FULL, ema=0.9, accumulation=2)  # gradients are there from the start of the second batch
    assert full.gradients > plain.gradients
    assert full.optimizer == 3 * full.gradients
    assert full.passing >= plain.passing


def test_the_optimizer_s_state_is_as_large_as_said() -> None:
    weight = nn.Parameter(torch.zeros(64, 256))
    for name in ("adamw", "adamw8bit"):
        if name == "adamw8bit":
            pytest.importorskip("bitsandbytes")
        made = lora.make_optimizer([weight], Train(optimizer=name))  # type: ignore[arg-type]
        weight.grad = torch.ones_like(weight)
        made.step()
        state = [each for each in made.state[weight].values() if isinstance(each, Tensor) and each.numel() > 256]
        scales = [each for each in made.state[weight].values() if isinstance(each, Tensor) and each.numel() == 64]
        size = sum(each.numel() * each.element_size() for each in [*state, *scales])
        assert Planner._state(name, weight.numel()) == size


# ---- outlines --------------------------------------------------------------------------------------------------------


def tensors(module: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(each.shape), each.dtype) for name, each in module.state_dict().items()}


def test_bagel_s_outline_is_the_model_without_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(checkpoint=str(BAGEL), dtype="float32")
    model = Bagel(options)
    monkeypatch.setattr(Stored, "load", None)  # nothing is read but headers
    found = Bagel.outline(options, "cuda")
    assert tensors(found.denoiser) == tensors(model.denoiser)
    assert all(parameter.is_meta for parameter in found.denoiser.parameters())
    assert found.recipe == model.recipe
    beside = [*model.eye.state_dict().values(), *model.autoencoder.state_dict().values()]
    assert found.parts["judge"] == sum(each.numel() * each.element_size() for each in beside)
    assert found.grid[:2] == model.grid(options.size)
    assert Bagel.outline(Options(checkpoint=str(BAGEL)), "cuda").denoiser.vae2llm.weight.dtype == torch.bfloat16


def test_the_published_bagel_is_known_by_its_sizes() -> None:
    """14.607 B parameters with the tower that looks and its connector, 83.82 M in the autoencoder."""
    found = Bagel.outline(Options(), "cuda")
    sampling = sum(parameter.numel() for parameter in found.denoiser.parameters())
    looking = (found.parts["judge"] - 4 * 83_819_683) / 2
    assert (sampling + looking) / 1e9 == pytest.approx(14.607, abs=0.001)
    assert found.grid == (64, 64, 64)


def test_blip3o_s_outline_is_the_model_without_its_weights() -> None:
    from srum_blip3o.model import Blip3o
    from srum_blip3o.options import Options as Blip3oOptions

    options = Blip3oOptions(checkpoint=str(BLIP3O), dtype="float32", device="cpu")
    model, found = Blip3o(options), Blip3o.outline(options, "cpu")
    assert tensors(found.denoiser) == tensors(model.denoiser)
    assert found.recipe == model.recipe
    reads = model.parts["language model"]
    assert found.parts["judge"] == sum(each.numel() * each.element_size() for each in reads.parameters())
    assert found.grid == (model.side, model.side, model.checkpoint.sizes.head.channels)
    assert height(lambda: found.generate(4)) > height(lambda: found.generate(2)) > 0  # type: ignore[misc]
    config = model.checkpoint.sizes.language.get_text_config()
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    more = height(lambda: found.judge(2, 40_000)) - height(lambda: found.judge(2, 20_000))  # type: ignore[misc]
    assert more == pytest.approx(2 * 20_000 * cache * 4, rel=0.05)


def test_omnigen2_s_outline_is_the_model_without_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from srum_omnigen2.model import OmniGen2
    from srum_omnigen2.options import Options as OmniGen2Options

    options = OmniGen2Options(checkpoint=str(OMNIGEN2), dtype="float32", device="cpu", size=(96, 64))
    model = OmniGen2(options)
    reads, decodes = model.parts["language model"], model.parts["autoencoder"]
    (grid,) = model.encode([Image.new("RGB", model.size)])
    monkeypatch.setattr(Stored, "load", None)  # nothing is read but headers
    found = OmniGen2.outline(options, "cpu")
    assert tensors(found.denoiser) == tensors(model.denoiser)
    assert found.recipe == model.recipe
    assert found.grid == tuple(grid.shape)
    assert found.parts["judge"] == sum(each.numel() * each.element_size() for each in reads.parameters())
    beside = sum(each.numel() * each.element_size() for each in decodes.parameters())
    assert found.parts == {"generate": found.parts["judge"] + beside, "judge": found.parts["judge"], "train": 0}
    assert height(lambda: found.generate(4)) > height(lambda: found.generate(2)) > 0  # type: ignore[misc]
    config = model.configs.language.get_text_config()
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    more = height(lambda: found.judge(2, 40_000)) - height(lambda: found.judge(2, 20_000))  # type: ignore[misc]
    assert more == pytest.approx(2 * 20_000 * cache * 4, rel=0.05)


def test_show_o2_s_outline_is_the_model_without_its_weights() -> None:
    from srum_showo2.model import ShowO2
    from srum_showo2.options import Options as ShowO2Options

    options = ShowO2Options(checkpoint=str(SHOWO2), dtype="float32", device="cpu")
    model, found = ShowO2(options), ShowO2.outline(options, "cpu")
    assert tensors(found.denoiser) == tensors(model.denoiser)
    assert found.recipe == model.recipe
    weights = sum(each.numel() * each.element_size() for each in model.autoencoder.parameters())
    assert found.parts == {"generate": weights, "judge": weights, "train": weights}
    assert found.grid == (*model.grid, model.denoiser.sizes.cell)
    assert height(lambda: found.generate(4)) > height(lambda: found.generate(2)) > 0  # type: ignore[misc]
    config = model.denoiser.sizes.language
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    more = height(lambda: found.judge(2, 40_000)) - height(lambda: found.judge(2, 20_000))  # type: ignore[misc]
    assert more == pytest.approx(2 * 20_000 * cache * 4, rel=0.05)


@pytest.mark.parametrize(
    ("name", "count"), [("showlab/show-o2-1.5B", 2_830_777_056), ("showlab/show-o2-7B", 8_932_118_752)]
)
def test_published_show_o2_is_known_by_its_sizes(name: str, count: int) -> None:
    """As many parameters as the official classes have at these sizes."""
    from srum_showo2.model import ShowO2
    from srum_showo2.options import Options as ShowO2Options

    found = ShowO2.outline(ShowO2Options(checkpoint=name), "cuda")
    assert sum(each.numel() for each in found.denoiser.parameters()) == count
    assert found.parts["judge"] == 4 * 126_892_531
    assert found.grid == (27, 27, 64)
    trained = ShowO2.outline(ShowO2Options(checkpoint=name, train="stage-1"), "cuda")
    patterns = trained.recipe.full
    some = [each for n, each in trained.denoiser.named_parameters() if any(re.fullmatch(p, n) for p in patterns)]
    assert sum(each.numel() for each in some) == {2_830_777_056: 890_331_072, 8_932_118_752: 922_191_808}[count]


def test_bagel_s_stages_grow_with_what_is_done_at_once() -> None:
    found = Bagel.outline(Options(checkpoint=str(BAGEL), dtype="float32"), "cpu")
    config = found.denoiser.language_model.config
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    more = height(lambda: found.judge(2, 40_000)) - height(lambda: found.judge(2, 20_000))  # type: ignore[misc]
    assert 2 * 20_000 * cache * 4 <= more <= 2.5 * 2 * 20_000 * cache * 4  # and while the buffers grow


def height(work: Callable[[], object]) -> int:
    with metered() as found:
        work()
    return found.peak


# ---- what is told ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_does_not_fit_is_mended_by_what_is_named(registry: plugins.Registry, tmp_path: Path) -> None:
    made, settings = planner(registry, tmp_path)
    for stage in ("generate", "train"):
        need: Need = getattr(made, stage)(settings)
        tight = attrs.evolve(made, device=Device("cpu", (need.weights + 0.8 * (need.total - need.weights)) / GIB))
        found = fix(tight, settings, need)
        assert found is not None
        words = [f'adapter.checkpoint="{BAGEL}"', f"train.max_cells={settings.train.max_cells}", *found.words]
        again = config.load_settings("bagel", [], None, words, registry)  # as a person types them
        assert getattr(tight, stage)(again).total == found.need.total <= tight.device.usable


@pytest.mark.slow
def test_one_command_is_found_with_which_every_stage_fits(registry: plugins.Registry, tmp_path: Path) -> None:
    """Too small for the weights as they are: they are quantised, and each stage does less at once."""
    pytest.importorskip("bitsandbytes")
    made, settings = planner(registry, tmp_path)
    least: Need = made.generate(attrs.evolve(settings, generate=attrs.evolve(settings.generate, batch=1)))
    made = attrs.evolve(made, device=Device("cpu", (least.total - 100_000) / GIB))
    found = together(made, settings)
    assert found is not None
    assert found.words[0] in ("adapter.offload=cpu", "adapter.quantize=int8")
    assert "generate.batch=1" in found.words
    words = [f'adapter.checkpoint="{BAGEL}"', f"train.max_cells={settings.train.max_cells}", *found.words]
    again = config.load_settings("bagel", [], None, words, registry)
    assert [need.total for need in needs(made, again)] == [need.total for need in found.needs]
    assert all(need.total <= made.device.usable for need in found.needs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blip3o", "omnigen2"])
def test_weights_are_moved_where_that_is_enough(registry: plugins.Registry, tmp_path: Path, name: str) -> None:
    """With the smallest batches, so that nothing else would help."""
    least = ["generate.batch=1", "judge.batch=1", "train.max_cells=1", "train.checkpointing=true", "train.method=lora"]
    words = [f'adapter.checkpoint="{GOLDENS / name / "checkpoint"}"', *least]
    settings = config.load_settings(name, [], None, words, registry)
    moved = config.load_settings(name, [], None, [*words, "adapter.offload=cpu"], registry)
    made = Planner(registry, Device("cpu", 80), Run(tmp_path / "run", settings, registry))
    less = needs(made, moved)
    assert all(few.total < all_of_it.total for few, all_of_it in zip(less[:2], needs(made, settings)[:2], strict=True))
    tight = attrs.evolve(made, device=Device("cpu", max(need.total for need in less) / GIB))
    found = together(tight, settings)
    assert found is not None
    assert found.words == ("adapter.offload=cpu",)


class Stub:
    """A planner for whom low-rank training takes 10, and full training 20 or more."""

    def __init__(self, gib: float) -> None:
        self.device = Device("cpu", gib / GIB)

    def outline(self, _: Settings) -> Any:
        return argparse.Namespace(grid=(8, 8, 4))

    def train(self, settings: Settings) -> Need:
        own = settings.train
        spared = 10 * own.checkpointing + 10 * (own.max_cells == 64) + 10 * (own.optimizer == "adamw8bit")
        return Need("train", "", weights=10 if own.method == "lora" else 50 - spared, passing=0)


@each_row(
    "room, words",
    [
        (40, ("train.checkpointing=true",)),
        (30, ("train.checkpointing=true", "train.max_cells=64")),
        (20, ("train.checkpointing=true", "train.max_cells=64", "train.optimizer=adamw8bit")),
        (10, ("train.method=lora",)),
        (9, None),
    ],
)
def test_nothing_is_named_that_is_not_needed(room: float, words: tuple[str, ...] | None) -> None:
    settings = Settings(adapter=Use("bagel"), train=Train(method="full"))
    made: Any = Stub(room)
    found = fix(made, settings, made.train(settings))
    assert (None if found is None else found.words) == words


def test_sharding_divides_what_can_be() -> None:
    need = Need("train", "", weights=110, passing=7, gradients=40, optimizer=80, largest=5, replicated=10)
    assert need.sharded(4) == Need("train", "", 10 + 25 + 10, 7, 10, 20, 0, 10)


def test_a_device_map_divides_a_stage(registry: plugins.Registry, tmp_path: Path) -> None:
    """On GPUs, if there are several."""
    made, settings = planner(registry, tmp_path, kind="cuda", **LORA)
    options = {**settings.adapter.options, "device_map": "auto"}
    spread = attrs.evolve(settings, adapter=attrs.evolve(settings.adapter, options=options))
    for stage in ("generate", "judge", "train"):
        whole = getattr(made, stage)(settings)
        assert whole.largest
        for kind, count, expected in (("cuda", 1, whole), ("cpu", 2, None), ("cuda", 2, whole.spread(2))):
            other = attrs.evolve(made, device=Device(kind, 80, count))
            assert getattr(other, stage)(spread) == (expected or getattr(other, stage)(settings))
    assert whole.spread(2).weights == whole.weights // 2 + whole.largest


def test_options_that_exclude_each_other_are_refused(registry: plugins.Registry, tmp_path: Path) -> None:
    plan, settings = planner(registry, tmp_path, kind="cuda")
    options = {**settings.adapter.options, "device_map": "auto", "offload": "cpu"}
    with pytest.raises(ConfigError, match="cannot be used together"):
        plan.outline(attrs.evolve(settings, adapter=attrs.evolve(settings.adapter, options=options)))


def test_several_devices_too_small_for_generating_get_a_device_map(registry: plugins.Registry, tmp_path: Path) -> None:
    made, settings = planner(registry, tmp_path, kind="cuda", **LORA)
    most = max(need.spread(2).total for need in needs(made, settings))
    found = together(attrs.evolve(made, device=Device("cuda", 1.00001 + most / 0.95 / GIB, 2)), settings)
    assert found is not None
    assert found.words == ("adapter.device_map=auto",)


def test_the_command_tells_and_its_status_says_whether_it_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    need = Need("train", "2 images", weights=4 * GIB, passing=2 * GIB, gradients=GIB, optimizer=2 * GIB)
    monkeypatch.setattr(Planner, "generate", lambda *_: attrs.evolve(need, stage="generate", gradients=0, optimizer=0))
    monkeypatch.setattr(Planner, "judge", lambda *_: None)  # somebody else answers
    monkeypatch.setattr(Planner, "train", lambda *_: need)
    asked = ["doctor", "--plan", "--on", "cpu", "--gpus", "2", "--adapter", "bagel", "--checkpoint", str(BAGEL)]
    assert main([*asked, "--gib", "9"]) == 0
    message = capsys.readouterr().out
    assert "At once: generate 2 images; train 2 images." in message
    assert "All of it fits on 2 devices of 9 GiB" in message
    assert main([*asked, "--gib", "8"]) == 1
    message = capsys.readouterr().out
    assert (
        "train needs 9.0 GiB and has 8.0. With all its weights there in full, no setting makes it fit on one" in message
    )
    assert "It fits with --launch fsdp2 over 2 devices (about 5.5 each); or a device of 9 GiB." in message


class Heavy:
    """A planner for whom weights take 20, whatever is set, and what passes 4 for each image at once."""

    def __init__(self, gib: float, count: int = 1) -> None:
        self.device = Device("cpu", gib, count)

    def outline(self, _: Settings) -> Any:
        return argparse.Namespace(grid=(8, 8, 4))

    def generate(self, settings: Settings) -> Need:
        return Need("generate", "", 20 * GIB, 4 * GIB * settings.generate.batch)

    def judge(self, settings: Settings) -> Need:
        return Need("judge", "", 20 * GIB, 4 * GIB * settings.judge.batch)

    def train(self, settings: Settings) -> Need:
        passing = 4 * GIB * (settings.train.max_cells // 64)
        return Need("train", "", 20 * GIB, passing, optimizer=8 * GIB, largest=GIB)


@each_row(
    "stage, gib, count, message",
    [
        ("generate", 24, 1, "It fits with generate.batch=1 (24.0)."),
        ("generate", 19, 1, "weights alone take 20.0. It fits with a device of 24 GiB and generate.batch=1."),
        ("generate", 19, 8, "weights alone take 20.0. It fits with a device of 24 GiB and generate.batch=1."),
        ("judge", 19, 1, "such as answerer=remote; or a device of 24 GiB and judge.batch=1."),
        ("train", 30, 1, "on one such device. It fits with --launch fsdp2 over 2 devices (about 24.0 each)"),
        (
            "train",
            19,
            1,
            "alone take 20.0. It fits with --launch fsdp2 over 4 devices (about 17.0 each); or a device of 32",
        ),
        ("train", 19, 2, "--launch fsdp2-offload over 2 devices (about 10.0 each)"),
        ("train", 9, 1, "--launch fsdp2 over 16 devices and train.max_cells=64 (about 7.8 each)"),
        (
            "train",
            5,
            2,
            "no setting makes it fit on one such device: its weights alone take 20.0. It fits with a device of",
        ),
    ],
)
def test_what_is_advised_is_enough(stage: str, gib: float, count: int, message: str) -> None:
    settings = Settings(adapter=Use("bagel"))
    settings = attrs.evolve(settings, train=Train(max_cells=128))
    made: Any = Heavy(gib, count)
    said = _advice(made, settings, getattr(made, stage)(settings))
    assert message in said
    assert "image" not in said
    assert "image" not in said  # smaller ones would not help


def test_an_adapter_without_an_outline_is_told(registry: plugins.Registry, tmp_path: Path) -> None:
    settings = config.load_settings("toy:ToyModel", [], None, [], registry)
    made = Planner(registry, Device("cpu", 1), Run(tmp_path / "run", settings, registry))
    with pytest.raises(ConfigError, match=r"toy:ToyModel has no `outline`.*writing-an-adapter"):
        made.train(settings)


def test_amounts_are_amounts() -> None:
    from srum_core.doctor.command import arguments

    parser = argparse.ArgumentParser(exit_on_error=False)
    arguments(parser)
    with pytest.raises(argparse.ArgumentError):
        parser.parse_args(["--plan", "--gib", "-3"])


# ---- what an accelerator may lack ------------------------------------------------------------------------------------


class NoDouble(TorchDispatchMode):
    """An accelerator without float64, as MPS is: whatever would put such a tensor on a device fails."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor) and each.device.type != "cpu":
                assert each.dtype not in (torch.float64, torch.complex128), f"{func} makes a {each.dtype} there"
        return made


@pytest.mark.parametrize("loss", ["SrumLoss", "BoundedLoss", "NegativeAwareLoss", "SftLoss"])
def test_a_step_puts_nothing_in_float64_on_an_accelerator(loss: str) -> None:
    grids = [(2, 3, 4), (1, 2, 4)]
    with FakeTensorMode(shape_env=ShapeEnv()), NoDouble():
        clean = [torch.zeros(grid, device="meta") for grid in grids]
        noise = [torch.zeros(grid) for grid in grids]
        weight = [torch.zeros(grid[:2], dtype=torch.float64) for grid in grids]  # of a map that forgot float32
        scale = torch.zeros(4, device="meta", requires_grad=True)
        times = Schedule().sample(2, torch.Generator())

        def denoiser(noisy: list[Tensor], time: Tensor, condition: None) -> list[Tensor]:
            return [scale * each * (1 - t) for each, t in zip(noisy, time, strict=True)]

        step = flow_step(denoiser, clean, None, times, weight, noise, start=denoiser)  # type: ignore[arg-type]
        total, parts = getattr(objectives, loss)()(step)
        (total * 0.5).backward()
        tally = Tally(0.5)
        tally.add(step, total, parts, counts=True)
        sums = tally.sums()
        watching = _Sum()
        watching(None, None, clean[0])
    assert {each.device.type for each in [*sums.values(), watching.total]} == {"cpu"}  # type: ignore[union-attr]
    assert {each.dtype for each in [*sums.values(), watching.total]} == {torch.float64}  # type: ignore[union-attr]


@pytest.mark.parametrize("checkpoint", [BAGEL, BLIP3O, OMNIGEN2, SHOWO2], ids=["bagel", "blip3o", "omnigen2", "showo2"])
def test_no_adapter_puts_anything_in_float64_on_an_accelerator(
    registry: plugins.Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    name = checkpoint.parent.name
    settings = config.load_settings(name, [], None, [f'adapter.checkpoint="{checkpoint}"'], registry)
    plan = Planner(registry, Device("cpu", 80.0), Run(tmp_path / "run", settings, registry))
    made = plan.outline(settings)  # building is done on the CPU
    monkeypatch.setattr(Planner, "outline", lambda self, settings: made)
    with NoDouble():
        assert plan.generate(settings) is not None
        assert plan.judge(settings) is not None
        assert plan.train(settings).passing > 0
