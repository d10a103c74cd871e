"""Trainable parameters: freezing, LoRA through PEFT, the moving average, checkpoint folders, the optimizer."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve, frozen
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint as recompute

from srum_core.errors import TrainingError
from srum_core.models import small_memory, trained, weights
from srum_core.runs.files import ABOUT, way_out
from srum_core.training import fsdp, trackers

NAME = "default"
"""PEFT's name for the LoRA that is trained."""

if TYPE_CHECKING:
    from srum_core.config import Lora, Train
    from srum_core.flow import Recipe
    from srum_core.protocols import UnifiedModel


@frozen(eq=False)
class Tuned:
    """A denoiser prepared for training. `parameters` are the trained ones by name, in float32."""

    module: nn.Module
    """The module to call: the denoiser itself, or PEFT's wrapper around it."""
    parameters: dict[str, nn.Parameter]
    kind: str
    """lora or full."""


def tune(
    model: UnifiedModel, method: str, lora: Lora, checkpointing: bool, compiled: bool = False, sharded: bool = False
) -> Tuned:
    """Freeze `model.denoiser` except for what `method` trains. Trained parameters become float32 master weights, frozen
    ones keep their type. LoRA's initial weights come from torch's global rng.

    sharded     `fsdp.shard` follows: it makes the master weights block by block and returns the parameters"""
    recipe = model.recipe
    module = _lora(model.denoiser, recipe, lora) if method == "lora" else _full(model.denoiser, recipe)
    parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    for parameter in [] if sharded else parameters.values():
        parameter.data = parameter.data.float()
    for block in find_blocks(module, recipe.blocks) if compiled or checkpointing else ():
        # Only `forward` is replaced: the names of modules and parameters stay, and sharding works around it.
        if compiled:  # one compilation serves all: blocks are alike
            block.forward = torch.compile(block.forward)
        if checkpointing:  # the backward pass computes activations again; gradients are the same
            block.forward = partial(recompute, block.forward, use_reentrant=False)
    module.train()
    # When sharded, references here would keep full weights in memory beside their shards.
    return Tuned(module, {} if sharded else parameters, method)


@frozen(eq=False)
class Start:
    """The tuned module with its initial weights; called like the module, without gradient and dropout.

    It holds a copy of the trained parameters, and exchanges them with the module's during a call. The copy takes their
    memory in float32: with LoRA a few megabytes.
    """

    tuned: Tuned
    weights: dict[str, Tensor]

    @classmethod
    def of(cls, tuned: Tuned) -> Start:
        """Copy the trained parameters, before the first update."""
        return cls(tuned, {name: weight.detach().clone() for name, weight in tuned.parameters.items()})

    @torch.no_grad()
    def __call__(self, *arguments: Any) -> Any:
        module = self.tuned.module
        training = module.training
        module.eval()
        self._exchange()
        try:
            return module(*arguments)
        finally:
            self._exchange()
            module.train(training)

    def _exchange(self) -> None:
        for name, parameter in self.tuned.parameters.items():
            current = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(current)
        torch.clear_autocast_cache()  # it holds casts of the other weights
        fsdp.reshard(self.tuned.module)


def check_types(tuned: Tuned, precision: str) -> None:
    """Raise TrainingError if weights of two types would be multiplied without autocast, which torch refuses.

    LoRA's layers convert by themselves."""
    dtypes = {p.dtype for p in tuned.module.parameters() if p.is_floating_point()} - {torch.float32}
    if precision == "no" and tuned.kind == "full" and dtypes:
        raise TrainingError(
            f"train.method=full keeps what it trains in float32, and the adapter has loaded the rest as "
            f"{', '.join(sorted(map(str, dtypes)))}: use train.mixed_precision=bf16, or have the adapter load float32."
        )


def _full(denoiser: nn.Module, recipe: Recipe) -> nn.Module:
    names = [name for name, _ in denoiser.named_parameters()]
    _check_patterns("recipe.full", recipe.full, "parameter", names)
    if not recipe.full:
        raise TrainingError(
            "This adapter's recipe.full is empty, so there is nothing that full training could change: use "
            "train.method=lora, or list the trained parameters in the adapter's Recipe."
        )
    trained_names = [name for name in names if any(re.fullmatch(pattern, name) for pattern in recipe.full)]
    if frozen := sorted({*trained_names} & {*small_memory.quantised(denoiser)}):
        raise TrainingError(
            f"train.method=full trains weights that adapter.quantize holds in 4 or 8 bits ({len(frozen)} tensors, such "
            f"as {frozen[0]}). Use train.method=lora; or, with settings that train only what images are generated "
            "with, adapter.quantize_part=understanding."
        )
    for name, parameter in denoiser.named_parameters():
        parameter.requires_grad_(name in trained_names)
    return denoiser


def _lora(denoiser: nn.Module, recipe: Recipe, lora: Lora) -> nn.Module:
    names = [name for name, _ in denoiser.named_modules() if name]
    pattern = recipe.lora
    if recipe.prefix:
        _check_patterns("recipe.prefix", [re.escape(recipe.prefix)], "module", names)
        names = [name.removeprefix(f"{recipe.prefix}.") for name in names if name.startswith(f"{recipe.prefix}.")]
        pattern = rf"{re.escape(recipe.prefix)}\.({recipe.lora})"
    _check_patterns("recipe.lora", [recipe.lora], "module", names)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # declared int, but it only ever divides it
        lora_dropout=lora.dropout,
        target_modules=pattern,
    )
    earlier = list(getattr(denoiser.get_submodule(recipe.prefix), "peft_config", {}))
    with trained.beside_earlier():
        module = get_peft_model(denoiser, config)
    if earlier:  # LoRA weights on quantised weights are not merged
        tuner: Any = module.base_model
        tuner.set_adapter([*earlier, NAME])
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(f".{NAME}." in name)
    return module


def find_blocks(module: nn.Module, blocks: Collection[str]) -> list[nn.Module]:
    """Return the modules of these classes. Raises TrainingError for a class without modules."""
    names = sorted({type(each).__name__ for each in module.modules()})
    _check_patterns("recipe.blocks", blocks, "class", names)
    return [each for each in module.modules() if type(each).__name__ in blocks]


def _check_patterns(where: str, patterns: Iterable[str], kind: str, names: list[str]) -> None:
    """Raise TrainingError for a pattern that matches none of the names."""
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in names):
            examples = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            raise TrainingError(
                f'{where} of the adapter holds "{pattern}", which matches no {kind} of its denoiser (there are '
                f"{examples}). Patterns must match whole names; correct the adapter's Recipe."
            )


class Average:
    """Exponential moving average of the trained weights, in float32.

    The decay rises to its final value, min(decay, (1 + step) / (10 + step)), so that initial weights fade in a short
    training too.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = {name: parameter.detach().clone() for name, parameter in parameters.items()} if decay else {}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor], step: int) -> None:
        """Average the parameters after update number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, mean in self.weights.items():
            mean.lerp_(parameters[name].detach(), 1 - decay)


@torch.no_grad()
def copy_into(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor], where: object = "") -> None:
    """Overwrite parameters in place, sharded or not. Raises CheckpointError, which names the source `where`, if names
    or shapes differ."""
    expected, shapes = ({name: each.shape for name, each in tensors.items()} for tensors in (parameters, values))
    weights.refuse(
        f"The trained weights in {where} are not those of this model",
        weights.differences(expected, shapes, unused=True),
        way_out(where) if isinstance(where, Path) else "",
    )
    for name, weight in values.items():
        parameters[name].copy_(fsdp.like(weight, parameters[name]))


def save(model: UnifiedModel, tuned: Tuned, directory: Path, about: Mapping[str, Any], base: str = "") -> None:
    """Write the trained weights to a folder: LoRA (of the checkpoint `base`) as PEFT, others as the adapter."""
    directory.mkdir(parents=True)
    if isinstance(tuned.module, PeftModel):
        config: Any = tuned.module.peft_config[NAME]
        place, recipe = Path(base).expanduser(), model.recipe
        local = bool(base) and place.is_dir()
        config.base_model_name_or_path = str(place.absolute()) if local else base
        config.target_modules = recipe.lora
        config.save_pretrained(str(directory))
        state = get_peft_model_state_dict(tuned.module, adapter_name=NAME, save_embedding_layers=False)
        below = f"base_model.model.{recipe.prefix}." if recipe.prefix else "base_model.model."
        tensors = {name.replace(below, "base_model.model.", 1): each.contiguous() for name, each in state.items()}
        save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    else:
        model.save(directory, {name: parameter.detach() for name, parameter in tuned.parameters.items()})
    (directory / ABOUT).write_text(json.dumps({"kind": tuned.kind, **about}, indent=1) + "\n", "utf-8")


def unshard(tuned: Tuned, keep: bool) -> Tuned:
    """Replace sharded parameters by full ones on the CPU, in the process with `keep`: to save them, not to run them.

    With LoRA, gather only the trained ones; with full training all, because an adapter may save any of them."""
    module = tuned.module
    names = tuned.parameters if tuned.kind == "lora" else dict(module.named_parameters(remove_duplicate=False))
    full_weights = {name: nn.Parameter(full, False) for name, full in fsdp.full_tensors(names, keep).items()}
    for name, parameter in full_weights.items():
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, parameter)
    return evolve(tuned, parameters={name: full_weights[name] for name in tuned.parameters if name in full_weights})


# ---- AdamW, in 32 or 8 bits ------------------------------------------------------------------------------------------


def make_optimizer(parameters: Iterable[nn.Parameter], train: Train) -> torch.optim.Optimizer:
    """Create the optimizer of the settings; on an accelerator, torch's fused AdamW. Raises TrainingError if AdamW in
    8 bits is not available."""
    tensors = list(parameters)
    betas = (train.beta1, train.beta2)
    if train.optimizer == "adamw":
        fused = tensors[0].device.type != "cpu" or None
        return torch.optim.AdamW(tensors, train.lr, betas, train.eps, train.weight_decay, fused=fused)
    trackers.check_optimizer(train.optimizer, any(isinstance(parameter, DTensor) for parameter in tensors))
    from bitsandbytes.optim import AdamW8bit

    adamw: Any = AdamW8bit  # its annotations are not those of its arguments
    optimizer: torch.optim.Optimizer = adamw(tensors, train.lr, betas, train.eps, train.weight_decay)
    return optimizer
