"""Tiny pipelines and a tiny vision-language model with random weights, in the layouts of real ones."""

from __future__ import annotations

import string
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers.models.resnet import ResnetBlock2D
from tokenizers import Tokenizer, models, pre_tokenizers

CHARACTERS = string.ascii_letters + string.digits + string.punctuation
SIDE = 32
"""Images of 32 x 32 pixels are 8 x 8 cells: the tiny autoencoder halves sides once, a cell is 2 x 2 of its pixels."""


def sd3(folder: Path) -> Path:
    """The layout of Stable Diffusion 3: two CLIPs, a T5 and joint attention."""
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=24,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(),
        text_encoder=transformers.CLIPTextModelWithProjection(_clip()),
        tokenizer=_clip_words(),
        text_encoder_2=transformers.CLIPTextModelWithProjection(_clip()),
        tokenizer_2=_clip_words(),
        text_encoder_3=transformers.T5EncoderModel(_t5()),
        tokenizer_3=_t5_words(),
    )
    pipeline.save_pretrained(folder)
    return folder


def flux(folder: Path) -> Path:
    """The layout of FLUX.1: packed latents, times from 0 to 1, positions as arguments."""
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )
    pipeline = diffusers.FluxPipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(),
        text_encoder=transformers.CLIPTextModel(_clip()),
        tokenizer=_clip_words(),
        text_encoder_2=transformers.T5EncoderModel(_t5()),
        tokenizer_2=_t5_words(),
    )
    pipeline.save_pretrained(folder)
    return folder


def lumina2(folder: Path) -> Path:
    """The layout of Lumina-Image 2: time runs the other way, and so does the velocity."""
    torch.manual_seed(0)
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(300, 16, 16),
        cap_feat_dim=32,
    )
    words = transformers.Gemma2Config(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    pipeline = diffusers.Lumina2Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=_vae(3),  # this pipeline takes it for granted that a side is divided by 8
        text_encoder=transformers.Gemma2Model(words),
        tokenizer=_t5_words(),
    )
    pipeline.save_pretrained(folder)
    return folder


def llava(folder: Path) -> Path:
    """The layout of LLaVA: a CLIP that looks, and a Llama that speaks (gibberish, with these weights)."""
    torch.manual_seed(0)
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=_characters(), bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    speech = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=speech, image_token_index=words.convert_tokens_to_ids("<image>")
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(size=side, crop_size=side, do_center_crop=False),
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=(
            "{% for message in messages %}{% for part in message.content %}"
            "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
            "{% endfor %}{% endfor %}"
        ),
    )
    processor.save_pretrained(folder)
    return folder


def _vae(halvings: int = 1) -> diffusers.AutoencoderKL:
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16,) * (halvings + 1),
        down_block_types=("DownEncoderBlock2D",) * (halvings + 1),
        up_block_types=("UpDecoderBlock2D",) * (halvings + 1),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        scaling_factor=1.5,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    for block in vae.encoder.modules():  # as after training, a latent depends on its place most; random norms blur that
        if isinstance(block, ResnetBlock2D):
            block.conv2.weight.data *= 0.1
    return vae


def _clip() -> transformers.CLIPTextConfig:
    return transformers.CLIPTextConfig(
        vocab_size=2 * len(CHARACTERS) + 2,
        hidden_size=16,
        projection_dim=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def _t5() -> transformers.T5Config:
    return transformers.T5Config(vocab_size=128, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)


def _clip_words() -> transformers.CLIPTokenizer:
    units = ["<|startoftext|>", "<|endoftext|>", *CHARACTERS, *(f"{each}</w>" for each in CHARACTERS)]
    vocabulary = {each: index for index, each in enumerate(units)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def _t5_words() -> transformers.T5Tokenizer:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return transformers.T5Tokenizer(vocab=special + [(each, -3.0) for each in CHARACTERS], extra_ids=0)


def _characters() -> Tokenizer:
    units = ["<pad>", "<s>", "</s>", "<unk>", " ", "\n", *CHARACTERS]
    words = Tokenizer(models.WordLevel({each: index for index, each in enumerate(units)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return words
