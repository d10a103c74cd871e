"""The scripts that measure run, with tiny sizes on the CPU, and count what there is to count."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from near import off

SPEED = Path(__file__).parent.parent / "benchmarks" / "speed"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    return opened("gpu", monkeypatch)


def opened(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SPEED))
    spec = importlib.util.spec_from_file_location(f"speed_{name}", SPEED / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_every_work_is_measured(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--tiny", "--rounds", "2", "--points", "3", "--tokens", "2", "--peak", "1e9"])
    found = {each["work"]: each for each in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(found) == [
        "training, LoRA, 2 images", "training, generation experts, 2 images", "training, LoRA, 2 images, nf4",
        "generating 1, guidance", "generating 4, guidance", "generating 8, guidance", "answering 1", "answering 32",
        "generating 1, guidance, nf4", "generating 4, guidance, nf4", "generating 8, guidance, nf4",
        "answering 1, nf4", "answering 32, nf4",
        *(f"attention, {name}" for name in script.ATTENTIONS),
    ]  # fmt: skip
    failed = found.pop("attention, cudnn")  # a CPU has none: it is told, and what comes after is measured
    assert failed["failed"].startswith("no kernel: No viable backend")
    assert all(each["low"] <= each["seconds"] <= each["high"] for each in found.values())
    more, less = found["training, generation experts, 2 images"], found["training, LoRA, 2 images"]
    assert more["products"] > less["products"]
    assert found["generating 8, guidance"]["products"] == 8 * found["generating 1, guidance"]["products"]
    assert found["answering 32"]["tokens_per_second"] == pytest.approx(64 / found["answering 32"]["seconds"])


def test_memory_is_predicted(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights in 4 bits take less, more images and questions more, and nothing is measured."""
    script.main(["--tiny", "--tokens", "2", "--predict", "--no-compile"])
    lines = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert all(line.keys() == {"work", "predicted_gib"} for line in lines)
    gib = {line["work"]: line["predicted_gib"] for line in lines}
    assert gib["training, LoRA, 2 images, nf4"] < gib["training, LoRA, 2 images"]
    assert gib["generating 1, guidance"] < gib["generating 4, guidance"]
    assert gib["answering 1, nf4"] < gib["answering 32, nf4"] < gib["answering 32"]


def test_no_room_is_told_and_other_errors_are_raised(script: Any) -> None:
    import torch

    def measured(error: Exception) -> dict[str, Any]:
        def fails(_: torch.device) -> Any:
            raise error

        options = SimpleNamespace(device=torch.device("cpu"))
        line: dict[str, Any] = script.measured("w", fails, options)
        return line

    message = "no room: so much"
    assert measured(torch.OutOfMemoryError("so much\nand more")) == {"work": "w", "failed": message}
    with pytest.raises(RuntimeError, match="shapes"):
        measured(RuntimeError("shapes do not match"))


@pytest.mark.parametrize("name", ["flash", "products", "flex"])
def test_every_attention_computes_the_same(script: Any, name: str) -> None:
    import torch

    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, 25, 16) for heads in (4, 2, 2))
    given = SimpleNamespace(device=torch.device("cpu"), compile=False)
    text, all_see = torch.ones(25, 25).tril().bool(), (torch.arange(25) >= 7)[:, None]
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, text | all_see, enable_gqa=True)
    assert off(script.attention(given, name, 25, 7)(q, k, v), wanted) <= 1e-5


def test_products_are_those_of_the_definition(script: Any) -> None:
    """One layer's weights and pairs, counted by hand."""
    import middle
    import torch

    options = SimpleNamespace(tiny=True, dtype=torch.float32)
    denoiser = script.build(options, torch.device("cpu"))
    weights = 2 * 32 * 32 + 2 * 32 * 32 + 3 * 32 * 48  # four heads, and four for keys and values
    tokens, pairs = 4 * 4 + 2 + 5, (16 + 2) * (16 + 2 + 5) + 15
    assert middle.products(denoiser, 1, (), 4, 5) == 2 * (2 * tokens * weights + 4 * 32 * pairs)
    assert middle.products(denoiser, 3, ("inputs",), 4, 5) == 3 * 2 * (4 * tokens * weights + 12 * 32 * pairs)
    sys.modules.pop("middle", None)


@pytest.mark.slow
@pytest.mark.parametrize(("work", "ways"), [("norms", 3), ("products", 10)])
def test_parts_are_measured_alone(
    work: str, ways: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened("parts", monkeypatch).main([work])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len({tuple(v for v in each.values() if not isinstance(v, float)) for each in lines}) == len(lines) == ways
    for name in ("middle", "test_middle", "reference"):
        sys.modules.pop(name, None)


def test_a_fit_finds_the_power_and_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    curves = opened("curves", monkeypatch)
    assert curves.fitted([(x, 3 * x**2) for x in (1, 2, 4)]).startswith("x^2.00;")
    assert curves.fitted([(x, 5 + 2 * x) for x in (1, 2, 4)]).endswith("5 + 2 x explains 100.00%")
    sys.modules.pop("middle", None)


def test_a_point_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    curves = opened("curves", monkeypatch)
    point = curves.measure(curves.Curve("released maps", "regions", (3,), partial(curves.mapping, "released")), 3, 2)
    assert point["work"] == "released maps"
    assert point["regions"] == 3
    assert point["low"] <= point["seconds"] <= point["high"]
    sys.modules.pop("middle", None)


def test_the_store_is_measured_step_by_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened("store", monkeypatch).main(["--records", "50"])
    *steps, total = map(json.loads, capsys.readouterr().out.splitlines())
    assert next(each["step"] for each in steps) == "append the first tenth"
    assert total["records"] == 58
