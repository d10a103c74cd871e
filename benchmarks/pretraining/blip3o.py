"""Make a small BLIP3-o checkpoint with random weights, in the published layout: for tests, and to pretrain from."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from pretraining.tokenizer import train_tokenizer
from srum_blip3o import dit, eva, text_encoder
from srum_blip3o.checkpoint import CONFIG, FOLDER, HEAD, QUERIES, TOWER
from srum_blip3o.model import Blip3o
from srum_blip3o.text_encoder import INSTRUCTION, language_config
from srum_core.models.qwen_vl import END, PAD, SPECIAL, SYSTEM, language_state, official_name

HEAD_SIZES = dit.Sizes(context=128, width=128, channels=64, blocks=8, heads=4, kv_heads=4, feed_forward=256)
TOKENS = (*SPECIAL, text_encoder.QUERIES)
TOWER_SIZES = eva.Sizes(width=64, patch=8, grid=4, blocks=2, heads=4, mlp=128)


@frozen
class Blueprint:
    """Sizes of a small model."""

    side: int = 32
    """Pixels of an image's side."""
    hidden: int = 128
    """Width of the language model; the next four fields are of it too."""
    mlp: int = 256
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    vocabulary: int = 400
    queries: int = 16
    head: dit.Sizes = HEAD_SIZES
    tower: eva.Sizes = TOWER_SIZES
    widths: tuple[int, ...] = (24, 32, 48)
    """Widths of the decoder's autoencoder, which halves an image between two of them."""
    latent: int = 8
    """Its channels."""
    unet: tuple[int, int] = (48, 64)
    """Widths of the decoder's UNet, whose second level has half the first one's sides."""


def create(directory: Path, corpus: Iterable[str], seed: int = 0, blueprint: Blueprint | None = None) -> None:
    """Write the whole directory, the feature tower inside: language model, queries, head, decoder, tokenizer."""
    torch.manual_seed(seed)
    b = blueprint or Blueprint()
    frame = [f"system\n{SYSTEM}", "user\n" + INSTRUCTION, "assistant\n"] * 50
    tokenizer = train_tokenizer([*frame, *corpus], b.vocabulary, directory, TOKENS, PAD, END)
    config = _config(b, tokenizer)
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    language = language_config(config, directory)
    tensors = language_weights(language)
    tensors[QUERIES] = torch.randn(1, b.queries, b.hidden)
    tensors |= {HEAD + name: tensor for name, tensor in dit.build(b.head).state_dict().items()}
    tensors |= {TOWER + name: tensor for name, tensor in _tower(b.tower).state_dict().items()}
    weights = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    about = {"vision_cfg": {"head_width": b.tower.width // b.tower.heads}}  # not inferable from the tower's weights
    (directory / FOLDER).mkdir(exist_ok=True)
    (directory / FOLDER / CONFIG).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    _decoder(b, directory / "diffusion-decoder")


def _config(b: Blueprint, tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    return {
        **qwen_config(b, tokenizer),
        "architectures": ["blip3oQwenForCausalLM"], "model_type": "blip3o_qwen", "tokenizer_model_max_length": 512,
        "n_query": b.queries, "gen_hidden_size": b.tower.width, "gen_pooling": "early_pool2d_1",
        "gen_vision_tower": "eva-clip-tiny",
    }  # fmt: skip


def qwen_config(b: Blueprint, tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    """Return the config.json of a Qwen2.5-VL, without the names of its classes."""
    ids = tokenizer.get_vocab()
    sixth = b.hidden // b.heads // 2 // 4
    return {
        "hidden_act": "silu", "hidden_size": b.hidden, "intermediate_size": b.mlp, "num_hidden_layers": b.layers,
        "num_attention_heads": b.heads, "num_key_value_heads": b.kv_heads, "max_position_embeddings": 4096,
        "vocab_size": -(-len(tokenizer) // 16) * 16, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "rope_scaling": {"type": "default", "rope_type": "default",
                         "mrope_section": [b.hidden // b.heads // 2 - 2 * (sixth + 2), sixth + 2, sixth + 2]},
        "tie_word_embeddings": True, "use_cache": True,
        "bos_token_id": ids[PAD], "eos_token_id": ids[END], "pad_token_id": ids[PAD],
        "image_token_id": ids["<|image_pad|>"], "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_config": {
            "model_type": "qwen2_5_vl", "depth": 1, "fullatt_block_indexes": [0], "hidden_act": "silu",
            "hidden_size": 32, "in_channels": 3, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": b.hidden,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "tokens_per_second": 2,
            "window_size": 112,
        },
    }  # fmt: skip


def language_weights(config: Qwen2_5_VLConfig) -> dict[str, Tensor]:
    """Create random weights, under the stored names."""
    model = Qwen2_5_VLForConditionalGeneration(config).state_dict()
    return {official_name(ours): model[ours] for ours in language_state(config)}


def _tower(sizes: eva.Sizes) -> eva.Tower:
    """Create the tower; its tokens differ by place from the start, because the decoder reads them as a set."""
    tower = eva.Tower(sizes)
    nn.init.normal_(tower.pos_embed, std=0.5)
    nn.init.normal_(tower.cls_token, std=0.5)
    for block in tower.blocks:
        for norm in (block.norm1, block.norm2):  # type: ignore[union-attr]
            nn.init.constant_(norm.weight, 0.1)  # type: ignore[arg-type, union-attr]
    return tower


def _decoder(b: Blueprint, directory: Path) -> None:
    levels = len(b.widths)
    autoencoder: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=b.widths, latent_channels=b.latent, layers_per_block=1, norm_num_groups=8,
        sample_size=b.side, scaling_factor=1.0, mid_block_add_attention=False,
    )  # fmt: skip
    autoencoder.save_pretrained(directory / "vae")
    times, side = 16, b.side // 2 ** (levels - 1)
    unet: Any = UNet2DConditionModel(
        sample_size=side, in_channels=b.latent, out_channels=b.latent, block_out_channels=b.unet, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn", cross_attention_dim=b.tower.width, attention_head_dim=(4, 4),
        norm_num_groups=8, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=times, projection_class_embeddings_input_dim=6 * times + b.tower.width,
    )  # fmt: skip
    unet.save_pretrained(directory / "unet")
    # It predicts the clean latent: the features determine almost all of it, so few steps are enough.
    scheduler: Any = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="sample",
        timestep_spacing="trailing",
    )  # fmt: skip
    scheduler.save_pretrained(directory / "scheduler")


def write(model: Blip3o, directory: Path) -> None:
    """Write all parts of the model, in 16 bits."""
    language = model.parts["language model"].state_dict()
    weights = {official_name(name): language[name] for name in language_state(model.checkpoint.sizes.language)}
    weights |= {TOWER + name: tensor for name, tensor in model.parts["feature tower"].state_dict().items()}
    weights |= {QUERIES: model.denoiser.latent_queries}
    weights |= {HEAD + name: tensor for name, tensor in model.denoiser.head.state_dict().items()}
    model.checkpoint.stored.write(directory, {}, model.checkpoint.directory.rglob("*"))  # tokenizer, configurations
    half = {name: tensor.detach().half().contiguous() for name, tensor in weights.items()}
    save_file(half, directory / "model.safetensors", metadata={"format": "pt"})
    decoder = model.parts["decoder"]
    for part, module in (("unet", decoder.pipeline.unet), ("vae", decoder.autoencoder)):
        copy.deepcopy(module).half().save_pretrained(directory / "diffusion-decoder" / part)
