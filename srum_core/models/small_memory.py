"""Weights in less memory: in 4 or 8 bits, made by bitsandbytes as they stream in.

Only linear layers inside the repeated ones are quantised; embeddings, norms and everything outside stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from srum_core.errors import CheckpointError, ConfigError, extra
from srum_core.options import SmallMemory

Parts = Mapping[str, str]
"""understanding and generation -> a regular expression for the names of their linear layers."""


def check(options: SmallMemory, several: bool = False) -> None:
    """Raise ConfigError for options that exclude each other, or `several` processes, and where quantised weights are
    wanted and the package for them is not installed."""
    if options.device_map == "auto":
        if several:
            raise ConfigError(
                "adapter.device_map=auto uses all accelerators from one process. Leave out --launch, with which each "
                "process uses one, or leave out adapter.device_map."
            )
        if getattr(options, "offload", "none") == "cpu":
            raise ConfigError(
                "adapter.device_map=auto and adapter.offload=cpu cannot be used together: one holds all weights on "
                "accelerators, the other some in host memory. Leave out one of them."
            )
        if ":" in (device := getattr(options, "device", "")):
            raise ConfigError(
                f"adapter.device={device} is one accelerator, and adapter.device_map=auto uses all. Leave out one of "
                "them; CUDA_VISIBLE_DEVICES selects GPUs."
            )
    if options.quantize != "none" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"adapter.quantize={options.quantize} needs the package bitsandbytes, which is not installed here: "
            f"{extra('8bit')}."
        )


def pattern(options: SmallMemory, parts: Parts) -> str | None:
    """The names of the layers to quantise; None for none."""
    if options.quantize == "none":
        return None
    some = [each for name, each in parts.items() if options.quantize_part in ("all", name)]
    return "|".join(f"({each})" for each in some) or None


def quantize(module: nn.Module, options: SmallMemory, parts: Parts, dtype: torch.dtype, planned: bool = False) -> None:
    """Replace layers of a module on the meta device by ones that `put` fills with quantised weights.

    dtype    of the activations
    planned  whether to stay on the meta device, with the sizes of quantised weights"""
    names = pattern(options, parts)
    if names is None:
        return
    check(options)
    from bitsandbytes import functional
    from bitsandbytes import nn as quantised_nn

    kinds: Any = quantised_nn

    linear = [(name, each) for name, each in module.named_modules() if isinstance(each, nn.Linear)]
    layers = [(name, each) for name, each in linear if re.fullmatch(names, name)]
    for name, old in layers:
        shape: Any = (old.in_features, old.out_features, old.bias is not None)
        with torch.device("meta"):
            if options.quantize == "nf4":
                new: Any = kinds.Linear4bit(*shape, compute_dtype=dtype, quant_type="nf4")
            else:
                new = kinds.Linear8bitLt(*shape, has_fp16_weights=False)
        new.weight.data, new.bias = old.weight.data, old.bias
        if planned:
            new.weight = new.weight._quantize("meta")
        module.set_submodule(name, new)
    maps = functional.name2qmap
    for name in [name for name, each in maps.items() if each.is_meta]:
        del maps[name]  # the package keeps it for all devices, and a plan's has no values
    keep_layout(module)
    if layers:  # PEFT's own layers for such weights depend on it
        setattr(module, f"is_loaded_in_{4 if options.quantize == 'nf4' else 8}bit", True)


def library_config(
    options: SmallMemory, parts: Parts, dtype: torch.dtype, skipped: list[str]
) -> BitsAndBytesConfig | None:
    """The same for a model that transformers loads; `skipped`: its modules with other linear layers."""
    if pattern(options, parts) is None:
        return None
    check(options)
    config: Any = BitsAndBytesConfig
    return config(  # type: ignore[no-any-return]
        load_in_4bit=options.quantize == "nf4",
        load_in_8bit=options.quantize == "int8",
        llm_int8_threshold=0.0,
        llm_int8_skip_modules=skipped,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def keep_layout(module: nn.Module) -> None:
    """Let no processor change the layout of 4-bit weights when they are first used: sizes of this kind may not fit."""
    for each in module.modules():
        if hasattr(each, "support_avx512bf16_for_cpu"):
            each.__dict__["support_avx512bf16_for_cpu"] = False


def put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Set a parameter or buffer of a module that was built on the meta device; of a quantised layer, quantised now."""
    owner, _, leaf = name.rpartition(".")
    holder = module.get_submodule(owner)
    old = getattr(holder, leaf)
    if is_quantised(old):
        kind, device = type(old), tensor.device
        # Both kinds quantise on the way from the CPU.
        setattr(holder, leaf, kind(tensor.cpu(), requires_grad=False, **vars(old)).to(device))
    elif isinstance(old, nn.Parameter):
        setattr(holder, leaf, nn.Parameter(tensor, requires_grad=False))
    else:
        setattr(holder, leaf, tensor)


def move(module: nn.Module, device: torch.device) -> None:
    """Move weights, with the scales of quantised ones. Parameters stay the same objects."""
    nn.Module.to(module, device)  # libraries' own methods warn
    scales_follow(module)


def scales_follow(module: nn.Module) -> None:
    """Put the scales of 8-bit layers where their weights are: bitsandbytes does not when a module around them moves."""
    layers: Any = module.modules()
    for each in layers:
        weight: Any = each._parameters.get("weight")  # a layer's own: PEFT's layers show that of the one inside
        if type(weight).__name__ == "Int8Params":
            for holder in (weight, each.state):  # the layer takes them over when it first runs
                if holder.CB is not None:
                    holder.CB, holder.SCB = weight.data, holder.SCB.to(weight.device)


def is_quantised(tensor: object) -> bool:
    """Whether a tensor is bitsandbytes' own kind of parameter."""
    return type(tensor).__name__ in ("Params4bit", "Int8Params")


def quantised(module: nn.Module) -> list[str]:
    """Names of the quantised parameters."""
    return [name for name, parameter in module.named_parameters() if is_quantised(parameter)]


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, with the scales of quantised ones."""
    return sum(each.numel() * each.element_size() + _scales(each) for each in tensors)


def _scales(tensor: Any) -> int:
    if not is_quantised(tensor):
        return 0
    state = getattr(tensor, "quant_state", None)
    parts = [tensor.SCB] if state is None else [state.absmax, state.code]
    if state is not None and state.nested:
        parts += [state.offset, state.state2.absmax, state.state2.code]
    return sum(each.numel() * each.element_size() for each in parts if each is not None)


def refuse_export(module: nn.Module) -> None:
    """Raise CheckpointError for a model that is to be written whole, and whose weights are quantised."""
    if quantised(module):
        raise CheckpointError(
            "The model was loaded with adapter.quantize, and cannot be written whole: load it without, or save only "
            "the LoRA weights."
        )
