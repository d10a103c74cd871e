"""The published layout: folders of weights and settings, opened strictly. Code in them is never run. Only one field of
the scheduler is read: its class has the name of one in diffusers, whose times run in the other direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import fields, frozen
from diffusers import AutoencoderKL
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from srum_core.errors import CheckpointError
from srum_core.models.hub import Checkpoints
from srum_core.models.qwen_vl import Chat, ImageInput, language_config, stored_shapes
from srum_core.models.weights import Stored, differences, loading, read_json, refuse, shapes_of
from srum_omnigen2.denoiser import Denoiser, Sizes
from srum_omnigen2.options import Options

CHECKPOINTS = Checkpoints(
    patterns=["*.json", "*.safetensors", "*.txt", "*.jinja"],
    published={"OmniGen2/OmniGen2": 24_000_000_000},
    weights="**/*.safetensors",
    needs="Training needs a GPU: LoRA one that holds the transformer in bfloat16 (7.5 GB) and the activations of "
    "1024x1024 images, full training 60 GB before activations (srum doctor --plan --adapter omnigen2 has details). To "
    "see the whole method on this machine, run a bundled model: srum-train --adapter bagel --preset shapes.",
    instead=", or build the tiny model of the preset shapes: python -m pretraining.omnigen2 --out runs/tiny-omnigen2",
)
_LANGUAGE_FIELDS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "vocab_size", "rms_norm_eps", "hidden_act", "tie_word_embeddings", "vision_config",
)  # fmt: skip
_VISION_FIELDS = (
    "depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "patch_size", "spatial_merge_size",
    "window_size", "fullatt_block_indexes",
)  # fmt: skip
_PROCESSOR_FIELDS = ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std")
_VAE_FIELDS = (
    "block_out_channels", "down_block_types", "up_block_types", "layers_per_block", "latent_channels",
    "norm_num_groups", "scaling_factor", "shift_factor", "use_quant_conv", "use_post_quant_conv",
)  # fmt: skip


CONFIGS = ("transformer/config.json", "mllm/config.json", "vae/config.json", "scheduler/scheduler_config.json")


@frozen
class Configs:
    """The configuration files, enough to build every part without weights."""

    transformer: Sizes
    language: Qwen2_5_VLConfig
    vae: Mapping[str, Any]
    shifted: bool
    """Whether sampling shifts its times with the image size."""

    @property
    def factor(self) -> int:
        """Pixels per side of a latent cell."""
        return int(2 ** (len(self.vae["block_out_channels"]) - 1))

    @property
    def stride(self) -> int:
        """Pixels per side of a token."""
        return self.factor * self.transformer.patch_size

    def autoencoder(self) -> Any:
        """Create the module on torch's meta device, without values."""
        with torch.device("meta"):
            return AutoencoderKL.from_config(dict(self.vae))


@frozen
class Checkpoint:
    """An open checkpoint: only configurations and headers are read."""

    directory: Path
    configs: Configs
    transformer: Stored
    mllm: Stored
    vae: Stored

    def chat(self) -> Chat:
        return Chat.load(self.directory / "processor", "OmniGen2")

    def load_autoencoder(self, device: torch.device) -> Any:
        """Load it in float32: it is small, and 16-bit decoding is visible."""
        autoencoder = self.configs.autoencoder()
        self.vae.load([autoencoder], device, torch.float32)
        return autoencoder

    def image_input(self, limits: tuple[int, int]) -> ImageInput:
        """Create the image processor with limits of an image's pixels; (0, 0): the checkpoint's own."""
        path = self.directory / "processor" / "preprocessor_config.json"
        config = read_json(path)
        limit_fields = () if "size" in config else ("min_pixels", "max_pixels")
        require(config, (*_PROCESSOR_FIELDS, *limit_fields), path)
        if any(limits):
            size = {"shortest_edge": limits[0], "longest_edge": limits[1]}
            config |= {"size": size, "min_pixels": limits[0], "max_pixels": limits[1]}
        with loading(f"The image processor that {path} describes"):
            return ImageInput(Qwen2VLImageProcessorPil.from_dict(config))


def open_checkpoint(options: Options, device: str) -> Checkpoint:
    """Open a directory in the published layout, or a hub id. Raises CheckpointError with every difference, unless
    every tensor of a part is there with its shape, and no other."""
    directory = CHECKPOINTS.find(options.checkpoint, device)
    for folder in ("transformer", "mllm", "vae", "processor", "scheduler"):
        if not (directory / folder).is_dir():
            raise CheckpointError(
                f"{directory} has no folder {folder}: an OmniGen2 checkpoint has transformer, mllm, vae, processor and "
                "scheduler. Download it again, or give the directory that has them."
            )
    transformer, vae = (
        Stored.open(directory / part, ["diffusion_pytorch_model"], "OmniGen2") for part in ("transformer", "vae")
    )
    mllm = Stored.open(directory / "mllm", ["model"], "OmniGen2")
    configs = read_configs(directory, *(read_json(directory / path) for path in CONFIGS))
    with loading(f"The model that {directory} describes"), torch.device("meta"):
        parts: list[tuple[Stored, Mapping[str, Sequence[int]]]] = [
            (transformer, shapes_of(Denoiser(configs.transformer, references=True).state_dict())),
            (mllm, stored_shapes(configs.language, mllm.shapes)),
            (vae, shapes_of(configs.autoencoder().state_dict())),
        ]
    for stored, expected in parts:
        refuse(
            f"The weights in {stored.directory} do not match its configuration",
            differences(expected, stored.shapes, unused=True),
        )
    return Checkpoint(directory, configs, transformer, mllm, vae)


def read_configs(directory: Path, *configs: Mapping[str, Any]) -> Configs:
    """Read the four files of CONFIGS. Fields that matter have no default: the official class's defaults differ from the
    published sizes. Raises CheckpointError."""
    transformer, mllm, vae, scheduler = configs
    in_transformer, where, in_vae, in_scheduler = (directory / path for path in CONFIGS)
    names = [each.name for each in fields(Sizes)]
    require(transformer, names, in_transformer)
    require(vae, _VAE_FIELDS, in_vae)
    require(scheduler, ["dynamic_time_shift"], in_scheduler)
    # transformers 5 writes the text model's fields, and its rotary ones, into separate parts.
    text = {**mllm, **mllm.get("text_config", {})}
    require(text, _LANGUAGE_FIELDS, where)
    if "rope_parameters" not in text:
        require(text, ["rope_theta", "rope_scaling"], where)
    require(text["vision_config"], _VISION_FIELDS, where)
    with loading(f"The configuration in {directory}"):
        values = {name: transformer[name] for name in names}
        values["out_channels"] = values["out_channels"] or values["in_channels"]
        sizes = Sizes(**{**values, "axes_dim_rope": tuple(values["axes_dim_rope"])})
        checked = Configs(sizes, language_config(mllm), vae, bool(scheduler["dynamic_time_shift"]))
    _check(in_transformer, checked)
    return checked


def require(config: Mapping[str, Any], names: Sequence[str], path: Path) -> None:
    """Raise CheckpointError for missing fields."""
    if missing := [name for name in names if name not in config]:
        raise CheckpointError(
            f"{path} lacks {', '.join(missing)}, and no default is safe: the published file has every field. "
            "Download it again."
        )


def _check(path: Path, configs: Configs) -> None:
    """Raise CheckpointError for sizes that contradict each other, and for values that shapes do not show."""
    sizes, hidden = configs.transformer, configs.language.get_text_config().hidden_size
    heads, rotary = sizes.num_attention_heads, sum(sizes.axes_dim_rope)
    problems = {
        f"hidden_size {sizes.hidden_size} is not num_attention_heads {heads} times the sum of axes_dim_rope {rotary}": (
            sizes.hidden_size != heads * rotary or any(axis % 2 for axis in sizes.axes_dim_rope)
        ),
        f"num_attention_heads {heads} is no multiple of num_kv_heads {sizes.num_kv_heads}": heads % sizes.num_kv_heads,
        f"text_feat_dim is {sizes.text_feat_dim}, the language model's hidden_size {hidden}": (
            sizes.text_feat_dim != hidden
        ),
        f"in_channels is {sizes.in_channels}, the autoencoder's latent_channels {configs.vae['latent_channels']}": (
            sizes.in_channels != configs.vae["latent_channels"]
        ),
        f"out_channels {sizes.out_channels} are not in_channels {sizes.in_channels}": (
            sizes.out_channels != sizes.in_channels
        ),
    }
    refuse(
        f"{path} does not describe an OmniGen2 transformer",
        [sentence for sentence, wrong in problems.items() if wrong],
    )
