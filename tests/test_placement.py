"""One model on several accelerators: where its layers are, and that results are those of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch
import training
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from devices import Opened, several
from golden_models import EVERY, GOLDENS, LORA, MODELS, options_of
from near import off
from rows import each_row
from torch import Tensor, nn

from srum_bagel.attention import Joint, rope
from srum_bagel.options import Options as BagelOptions
from srum_core.errors import ConfigError
from srum_core.models import placement, small_memory, weights
from srum_core.models.placement import Places, divide
from srum_core.options import SmallMemory
from srum_core.records import Question
from srum_core.training import lora, metrics
from srum_core.training.trainer import Trainer, train

HOST, META = torch.device("cpu"), torch.device("meta")


def load(name: str, **options: Any) -> Any:
    model, kind = MODELS[name]
    sampling = attrs.evolve(kind().sampling, steps=3)
    return model(options_of(name, **{"device_map": "auto", "dtype": "float32", "sampling": sampling, **options}))


# ---- where layers are ------------------------------------------------------------------------------------------------


@each_row(
    "sizes, rest, room, expected",
    [
        ([10] * 8, 0, [100, 100], [0, 0, 0, 0, 1, 1, 1, 1]),
        ([10] * 8, 40, [100, 100], [0, 0, 1, 1, 1, 1, 1, 1]),  # the first keeps space for one more
        ([10] * 8, 0, [200, 100], [0, 0, 0, 0, 0, 1, 1, 1]),
        ([10] * 6, 0, [100, 100, 100], [0, 0, 1, 1, 1, 2]),
        ([10, 10, 40, 40], 0, [100, 100], [0, 0, 1, 1]),
        ([10] * 4, 95, [100, 50], [1, 1, 1, 1]),
    ],
)
def test_layers_are_divided_by_what_is_free(sizes: list[int], rest: int, room: list[int], expected: list[int]) -> None:
    assert divide(sizes, rest, room) == expected


def test_weights_that_fit_nowhere_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"take 4.0 GiB, which the 2 accelerators do not have free \(1.0, 2.0 GiB\)"):
        divide([2**30] * 4, 0, [2**30, 2 * 2**30])


def test_one_device_or_none_is_the_model_as_it_is() -> None:
    for count in (0, 1):
        with several(count):
            model = load("bagel", device="cpu" if not count else "auto")
            assert not any(hasattr(each, "_hf_hook") for each in model.denoiser.modules())


def test_free_memory_decides() -> None:
    asked: list[torch.device] = []

    def free(device: torch.device) -> int:
        asked.append(device)
        return 2**30

    with several(2) as devices, pytest.MonkeyPatch.context() as patch:
        patch.setattr(placement, "free", free)
        patch.setattr(placement, "divide", divide)
        model = load("bagel")
        assert asked == devices
        places = {layer.input_layernorm.weight.device for layer in model.denoiser.language_model.model.layers}
    assert places <= set(devices)


def test_memory_that_torch_caches_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [90]
    module = SimpleNamespace(empty_cache=lambda: taken.__setitem__(0, 40), mem_get_info=lambda _: (100 - taken[0], 100))
    monkeypatch.setattr(torch, "get_device_module", lambda _: module)
    assert placement.free(torch.device("cuda", 0)) == 60


@pytest.mark.parametrize("kind", ["none", "nf4", "int8"])
def test_weights_go_straight_to_their_layer_s_device(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes does not know simulated devices: torch's meta device is the second, until a weight is set."""
    if kind != "none":
        pytest.importorskip("bitsandbytes", reason="the extra 8bit is not installed")
    second, put = "language_model.model.layers.1", small_memory.put
    read: dict[str, torch.device] = {}

    def recorded(module: nn.Module, name: str, tensor: Tensor) -> None:
        read[name] = tensor.device
        put(module, name, torch.zeros_like(tensor, device=HOST) if tensor.is_meta else tensor)

    monkeypatch.setattr(small_memory, "put", recorded)
    monkeypatch.setattr(weights, "safe_open", Opened)
    monkeypatch.setattr(Places, "of", lambda *_: Places(HOST, {second: META}))
    denoiser = load("bagel", quantize=kind, device="cpu").denoiser
    there = {name for name, device in read.items() if device == META}
    assert there == {name for name, _ in denoiser.named_parameters() if name.startswith(f"{second}.")}
    assert bool(small_memory.quantised(denoiser)) == (kind != "none")


def test_libraries_get_modules_that_cover_every_tensor() -> None:
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    model["layers"] = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    places = Places(HOST, {"layers.1": META, "layers.2": META})
    assert places.device_map(model) == {
        "head": HOST, "norm": HOST, "layers.0": HOST, "layers.1": META, "layers.2": META,
    }  # fmt: skip
    assert Places(HOST).device_map(model) == {"": HOST}


# ---- the same results ------------------------------------------------------------------------------------------------


def used(model: Any, folder: Path) -> tuple[list[bytes], list[str]]:
    samples = model.generate(["a red cup", "a blue dog beside a cat"], [0, 1])
    path = folder / "image.png"
    samples[0].image.save(path)
    questions = [Question(path, text, max_new_tokens=tokens) for text, tokens in (("What is it?", 4), ("Who?", 7))]
    return [each.image.tobytes() for each in samples], model.answer(questions)


@pytest.mark.parametrize("name", EVERY)
def test_images_and_answers_are_those_of_one_device(name: str, tmp_path: Path) -> None:
    with several(1):
        expected = used(load(name), tmp_path)
    with several(2) as devices:
        model = load(name)
        parts = [model.denoiser, *([model.parts["language model"]] if hasattr(model, "parts") else [])]
        for part in parts:
            assert {each.device for each in part.parameters()} == set(devices)
        assert used(model, tmp_path) == expected


def gradients(name: str, checkpointing: bool, method: str = "lora") -> dict[str, Tensor]:
    model = load(name)
    rows, columns, channels = type(model).outline(model.options, "cpu").grid
    texts = model.condition(["a cup", "a blue dog beside a cat"])  # of two lengths: attention has a mask
    tuned = lora.tune(model, method, LORA, checkpointing)
    with torch.no_grad():
        for number, parameter in enumerate(tuned.parameters.values() if method == "lora" else ()):
            values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) / 10
            parameter.copy_(values.to(parameter.device))
    device = next(model.denoiser.parameters()).device
    rngs = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    noisy = [torch.randn(rows, columns, channels, generator=each).to(device) for each in rngs]
    velocities = tuned.module(noisy, torch.tensor([0.5, 0.2]), texts)
    torch.stack(list(velocities)).square().sum().backward()
    return {key: each.grad.cpu() for key, each in tuned.parameters.items() if each.grad is not None}


@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_those_of_one_device(name: str) -> None:
    for method in ("lora", "full"):
        with several(1):
            expected = gradients(name, False, method)
        for checkpointing in (False, True):
            with several(2):
                found = gradients(name, checkpointing, method)
            assert found.keys() == expected.keys()
            assert max(off(found[key], expected[key]) for key in expected) < 1e-5


@pytest.mark.slow
def test_training_is_that_of_one_device_also_when_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = {
        "use": "bagel", "checkpoint": str(GOLDENS / "bagel" / "checkpoint"), "dtype": "float32", "device_map": "auto",
        "generation_sides": [64, 64],
    }  # fmt: skip

    def trained(count: int, name: str, stopped: bool = False) -> tuple[dict[str, Tensor], bytes]:
        with several(count) as devices, monkeypatch.context() as patch:
            patch.setattr(Accelerator, "device", property(lambda _: devices[0]))
            patch.setattr(Trainer, "save", interrupted(Trainer.save) if stopped else Trainer.save)
            run = training.make(tmp_path / name, adapter=adapter, method="lora", steps=3, save_every=1, ema=0.9)
            for _ in range(1 + stopped):
                try:
                    train(run, 1)
                except KeyboardInterrupt:
                    AcceleratorState._reset_state(reset_partial_state=True)
            AcceleratorState._reset_state(reset_partial_state=True)
            image = run.model(1).generate(["a red cup"], [0])[0].image  # with the LoRA weights merged
            assert image is not None
            return training.weights(run), image.tobytes()

    def interrupted(save: Callable[[Trainer], None]) -> Callable[[Trainer], None]:
        once = [True]

        def saved(self: Trainer) -> None:
            save(self)
            if once:
                once.clear()
                raise KeyboardInterrupt

        return saved

    expected, image = trained(1, "one")
    whole, other = trained(2, "two")
    assert max(off(whole[key], expected[key]) for key in expected) < 1e-5
    assert image == other
    resumed, again = trained(2, "resumed", stopped=True)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    assert again == image


def test_a_plan_is_moved_to_a_device_once() -> None:
    with several(2) as (first, second):
        text, block = (rope(torch.arange(size, device=first)[None], 4, 1e4) for size in (3, 6))
        real = [torch.ones(1, size, dtype=torch.bool, device=first) for size in (3, 4)]
        real[1][:, -1] = False
        plan = Joint(text, block, *real, apart=True, wanted=False)
        there = plan.to(second)
        assert plan.to(second) is there
        assert there.mask is not None
        assert {each.device for each in (there.mask, *(part for angles in there.angles for part in angles))} == {second}
        assert plan.mask is not None
        assert plan.mask.device == first


# ---- what it is used with --------------------------------------------------------------------------------------------


@each_row(
    "options, several_processes, message",
    [
        (BagelOptions(device_map="auto"), True, "Leave out --launch"),
        (BagelOptions(device_map="auto", offload="cpu"), False, "adapter.offload=cpu cannot be used together"),
        (BagelOptions(device_map="auto", device="cuda:1"), False, "adapter.device=cuda:1 is one accelerator"),
    ],
)
def test_what_it_excludes(options: SmallMemory, several_processes: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_memory.check(options, several_processes)


def test_a_process_of_several_refuses_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with several(2), pytest.raises(ConfigError, match="uses all accelerators from one process"):
        load("bagel")


def test_the_largest_peak_of_all_gpus_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks, forgotten = [3 * 2**20, 5 * 2**20], list[int]()
    for name, value in {
        "is_available": lambda: True, "init": lambda: None, "device_count": lambda: 2,
        "max_memory_allocated": peaks.__getitem__, "reset_peak_memory_stats": forgotten.append,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    metrics.forget_peaks()
    assert forgotten == [0, 1]
    assert metrics.memory()["gpu_memory_peak"] == 5
