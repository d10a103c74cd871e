"""What training wrote: the kind of a checkpoint, and LoRA weights applied to a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor

from srum_core.errors import CheckpointError, clean
from srum_core.models import small_memory, weights
from srum_core.protocols import UnifiedModel
from srum_core.runs.files import ABOUT, way_out


def kind(checkpoint: Path) -> str:
    """lora or full: the kind of a checkpoint folder written by `save`. Raises CheckpointError if it is none."""
    if (checkpoint / ABOUT).exists():
        name = weights.read_json(checkpoint / ABOUT).get("kind")
        if name not in ("lora", "full"):
            raise CheckpointError(f'{checkpoint / ABOUT} has kind {name!r}, which is neither "lora" nor "full".')
        return str(name)
    if (checkpoint / "adapter_config.json").is_file():
        return "lora"  # from elsewhere, in PEFT's layout
    raise CheckpointError(f"{checkpoint} holds no {ABOUT} and no adapter_config.json: it is no result of training.")


def export(model: UnifiedModel, folder: Path) -> None:
    """Write the model whole, in the layout of its own project: by its `export`; without one what it saves is whole.

    Raises CheckpointError for quantised weights."""
    small_memory.refuse_export(model.denoiser)
    if hasattr(model, "export"):
        model.export(folder)
    else:
        model.save(folder, {name: parameter.detach() for name, parameter in model.denoiser.named_parameters()})


def apply(model: UnifiedModel, checkpoint: Path) -> None:
    """Add a PEFT folder's weights to those of `model.denoiser`, in place and in the type that these have; beside
    quantised ones, which would round most of them away, they are kept as they are.

    Raises CheckpointError for a folder of another kind, and unless every tensor fits by name and shape."""
    if kind(checkpoint) != "lora":
        raise CheckpointError(
            f"{checkpoint} holds full weights: load it as the adapter's checkpoint, not on top of one."
        )
    denoiser, training = model.denoiser, model.denoiser.training
    config, values = read_lora(checkpoint)
    with weights.loading(f"The LoRA weights in {checkpoint}", checkpoint):
        inner = denoiser.get_submodule(model.recipe.prefix)
        name = f"earlier-{len(getattr(inner, 'peft_config', {}))}"
        with beside_earlier():
            wrapped = PeftModel(inner, config, name)
        state = get_peft_model_state_dict(wrapped, adapter_name=name, save_embedding_layers=False)
        shapes, stored = ({name: tensor.shape for name, tensor in some.items()} for some in (state, values))
        weights.refuse(
            f"The LoRA weights in {checkpoint} do not fit this model",
            weights.differences(shapes, stored, unused=True),
            f"Use the adapter and checkpoint that they were trained with. {way_out(checkpoint)}",
        )
        set_peft_model_state_dict(wrapped, values, name)
        if any(small_memory.quantised(each) for each in denoiser.modules() if isinstance(each, LoraLayer)):
            tuner: Any = wrapped.base_model
            tuner.set_adapter(list(wrapped.peft_config))
        else:
            # What this returns is the wrapped module itself, its own layers put back.
            wrapped.merge_and_unload(safe_merge=True)
    denoiser.requires_grad_(False).train(training)


@contextmanager
def beside_earlier() -> Iterator[None]:
    """Let PEFT add LoRA to a model that has some: it warns where that is not meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are trying to modify a model with PEFT for a second time")
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
        yield


def read_lora(checkpoint: Path) -> tuple[PeftConfig, dict[str, Tensor]]:
    """The configuration and tensors of a PEFT folder, each checked alone. Raises CheckpointError."""
    about = weights.read_json(checkpoint / "adapter_config.json")
    names = ("adapter_model.safetensors", "adapter_model.bin")
    path = next((checkpoint / name for name in names if (checkpoint / name).is_file()), None)
    if path is None:
        raise CheckpointError(
            f"{checkpoint} has no {names[0]}: nothing that was trained is there. {way_out(checkpoint)}"
        )
    values = weights.read_tensors(path)
    weights.refuse_infinite(values.items(), path)
    largest = max((side for tensor in values.values() for side in tensor.shape), default=0)
    rank = about.get("r", 0)
    if not isinstance(rank, int) or rank > largest:  # the matrices would be made before they are compared
        raise CheckpointError(
            f"{checkpoint / 'adapter_config.json'} has rank {clean(rank, 40)}, and {path.name} has {len(values)} "
            f"tensors with sides of at most {largest}: they do not belong together. {way_out(checkpoint)}"
        )
    with weights.loading(f"The configuration in {checkpoint}"):
        return PeftConfig.from_pretrained(str(checkpoint)), values
