"""A vision-language checkpoint with random weights, small enough for a test: the published layout, half a megabyte."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

# The family's names: its processor looks for these, and servers find the answer behind "<|im_start|>assistant".
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
BEFORE, AFTER, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
TEMPLATE = (
    "{% for message in messages %}" + START + "{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}" + BEFORE + IMAGE + AFTER + "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}" + STOP + "\n{% endfor %}"
    "{% if add_generation_prompt %}" + START + "assistant\n{% endif %}"
)


def write_tiny_vlm(folder: Path) -> None:
    """Bytes are its tokens. It samples where it is asked to, and sees images of at most 16 patches of 28 pixels."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = [END, START, STOP, BEFORE, AFTER, IMAGE, VIDEO]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=STOP, pad_token=END, additional_special_tokens=special
    )
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=112 * 112),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    stop, end, image, video, before, after = tokenizer.convert_tokens_to_ids([STOP, END, IMAGE, VIDEO, BEFORE, AFTER])
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]},
            "bos_token_id": None,
            "eos_token_id": stop,
            "pad_token_id": end,
            "initializer_range": 0.2,  # large enough for what is seen to change what is said
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.2,
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=before,
        vision_end_token_id=after,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.update(eos_token_id=stop, pad_token_id=end, do_sample=True)
    model.save_pretrained(folder)
