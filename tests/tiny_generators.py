"""Text-to-image checkpoints with random weights, in the layouts of SDXL, Stable Diffusion 3, FLUX.1 and Janus."""

from __future__ import annotations

import string
from pathlib import Path

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

CHARACTERS = string.ascii_letters + string.digits + string.punctuation


def sdxl(folder: Path) -> None:
    unet = diffusers.UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, attention_head_dim=(2, 4), norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1), projection_class_embeddings_input_dim=6 * 8 + 16, cross_attention_dim=32,
    )  # fmt: skip
    diffusers.StableDiffusionXLPipeline(
        vae=_vae(True), unet=unet, scheduler=diffusers.EulerDiscreteScheduler(),
        text_encoder=transformers.CLIPTextModel(_clip()), tokenizer=_clip_words(),
        text_encoder_2=transformers.CLIPTextModelWithProjection(_clip()), tokenizer_2=_clip_words(),
    ).save_pretrained(folder)  # fmt: skip


def sd3(folder: Path) -> None:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32,
        pos_embed_max_size=24,
    )  # fmt: skip
    diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=_vae(),
        text_encoder=transformers.CLIPTextModelWithProjection(_clip()), tokenizer=_clip_words(),
        text_encoder_2=transformers.CLIPTextModelWithProjection(_clip()), tokenizer_2=_clip_words(),
        text_encoder_3=transformers.T5EncoderModel(_t5()), tokenizer_3=_t5_words(),
    ).save_pretrained(folder)  # fmt: skip


def flux(folder: Path) -> None:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=32, pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    diffusers.FluxPipeline(
        transformer=transformer, vae=_vae(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        text_encoder=transformers.CLIPTextModel(_clip()), tokenizer=_clip_words(),
        text_encoder_2=transformers.T5EncoderModel(_t5()), tokenizer_2=_t5_words(),
    ).save_pretrained(folder)  # fmt: skip


def janus(folder: Path) -> None:
    """Images of 32 x 32 pixels, sixteen tokens each; a character is a token."""
    special = ["<pad>", "<s>", "</s>", "<unk>", "<image_placeholder>", "<begin_of_image>", "<end_of_image>"]
    units = {each: index for index, each in enumerate([*special, " ", "\n", *CHARACTERS])}
    raw = Tokenizer(models.WordLevel(units, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        extra_special_tokens={
            "image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>",
        },
        chat_template=(
            "<s>{% for message in messages %}U:{% for part in message.content %}{{ part.text }}{% endfor %}\n"
            "{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
        ),
    )  # fmt: skip
    words.save_pretrained(folder)
    config = transformers.JanusConfig(
        text_config={
            "model_type": "llama", "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.3,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 2,
            "projection_dim": 32, "num_image_tokens": 16,
        },
        vq_config={
            "embed_dim": 8, "num_embeddings": 64, "latent_channels": 32, "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1, "projection_dim": 32, "image_token_embed_dim": 32,
            "initializer_range": 0.3,
        },
        image_token_id=4,
    )  # fmt: skip
    model = transformers.JanusForConditionalGeneration(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for weights in model.model.generation_head.parameters():  # else all tokens are as likely for all words
            weights.data = torch.randn_like(weights) * 0.15
    model.save_pretrained(folder)


def _vae(quant: bool = False) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(16, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, latent_channels=4, norm_num_groups=1,
        scaling_factor=1.5, shift_factor=None if quant else 0.1, use_quant_conv=quant, use_post_quant_conv=quant,
        mid_block_add_attention=False,
    )  # fmt: skip


def _clip() -> transformers.CLIPTextConfig:
    return transformers.CLIPTextConfig(
        vocab_size=2 * len(CHARACTERS) + 2, hidden_size=16, projection_dim=16, intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=2, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip


def _t5() -> transformers.T5Config:
    return transformers.T5Config(vocab_size=128, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)


def _clip_words() -> transformers.CLIPTokenizer:
    units = ["<|startoftext|>", "<|endoftext|>", *CHARACTERS, *(f"{each}</w>" for each in CHARACTERS)]
    return transformers.CLIPTokenizer(
        vocab={each: index for index, each in enumerate(units)}, merges=[], model_max_length=77
    )


def _t5_words() -> transformers.T5Tokenizer:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return transformers.T5Tokenizer(vocab=special + [(each, -3.0) for each in CHARACTERS], extra_ids=0)
