"""Segment Anything checkpoints of any size: found, read safely, and put into segment-anything's own classes.

A checkpoint is nothing but tensors, so every size is read off their shapes. Four things leave no trace in shapes; they
are the same in all published files: 8 heads in the mask decoder, layer norms of the encoder with eps 1e-6, the colour
normalisation, and square images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from srum_core.errors import CheckpointError

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

PUBLISHED = {
    "vit_b": "sam_vit_b_01ec64.pth",
    "vit_l": "sam_vit_l_0b3195.pth",
    "vit_h": "sam_vit_h_4b8939.pth",
}
"""The published files, by the names that segment-anything gives to their sizes."""
_DECODER_HEADS = 8


def find(checkpoint: str) -> Path:
    """The file that a path or a published size names. Raises CheckpointError, saying which file to put where."""
    if checkpoint in PUBLISHED:
        cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")  # torch.hub's folder, without importing torch
        folder = Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub" / "checkpoints"
        path = folder / PUBLISHED[checkpoint]
        if path.is_file():
            return path
        raise CheckpointError(
            f'The checkpoint "{checkpoint}" of Segment Anything is the published file {path.name}, which is not in '
            f"{folder}. Download it from the Segment Anything project and put it there, or give the path of a "
            "checkpoint file: grounder.checkpoint=FILE."
        )
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f'grounder.checkpoint="{checkpoint}" is no file. Give the path of a Segment Anything checkpoint (.pth or '
            f".safetensors), or one of {', '.join(PUBLISHED)}."
        )
    return path


def load(path: Path) -> Sam:
    """The model on the CPU, in float32, ready to use. Raises CheckpointError for a file that is no such checkpoint."""
    from srum_core.models import weights

    state = weights.read_tensors(path)
    odd = {name: str(each.dtype) for name, each in state.items() if not each.is_floating_point()}
    weights.refuse_quantised(path, odd)
    try:
        model = build(weights.shapes_of(state))
    except KeyError as error:
        raise CheckpointError(
            f"{path} has no tensor {error}, which every Segment Anything checkpoint has: is it one?"
        ) from error
    except (ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path} has tensors of shapes that make no Segment Anything model: {error}") from error
    return weights.fill(model, state, path, f"{path} does not fit Segment Anything")


def build(shapes: Mapping[str, tuple[int, ...]]) -> Sam:
    """A model without weights (on the meta device), of the size that tensors of these shapes belong to, out of
    segment-anything's own classes.

    Raises KeyError for a tensor that is not there, ValueError for shapes that contradict each other.
    """
    import torch
    from segment_anything import modeling

    width, _, patch, _ = _shape(shapes, "image_encoder.patch_embed.proj.weight", 4)
    grid = _shape(shapes, "image_encoder.pos_embed", 4)[1]  # the image's side, in patches
    side = grid * patch
    depth = _count(shapes, "image_encoder.blocks.")
    windows, head_widths = [], set()  # of each layer the side of what it attends to, in patches
    for layer in range(depth):
        length, head_width = _shape(shapes, f"image_encoder.blocks.{layer}.attn.rel_pos_h", 2)
        windows.append((length + 1) // 2)
        head_widths.add(head_width)
    local = set(windows) - {grid}
    if len(head_widths) != 1 or width % min(head_widths) or len(local) > 1:
        raise ValueError(f"{width} channels in heads of {sorted(head_widths)}, windows of sides {sorted(local)}")
    prompt_width = _shape(shapes, "prompt_encoder.no_mask_embed.weight", 2)[1]
    attention = "mask_decoder.transformer.final_attn_token_to_image.q_proj.weight"
    with torch.device("meta"):
        encoder = modeling.ImageEncoderViT(
            img_size=side,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=width // head_widths.pop(),
            mlp_ratio=_shape(shapes, "image_encoder.blocks.0.mlp.lin1.weight", 2)[0] / width,
            out_chans=prompt_width,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=next(iter(local), 0),
            global_attn_indexes=tuple(layer for layer, window in enumerate(windows) if window == grid),
        )
        prompts = modeling.PromptEncoder(
            embed_dim=prompt_width,
            image_embedding_size=(grid, grid),
            input_image_size=(side, side),
            mask_in_chans=_shape(shapes, "prompt_encoder.mask_downscaling.3.weight", 4)[0],
        )
        decoder = modeling.MaskDecoder(
            num_multimask_outputs=_count(shapes, "mask_decoder.output_hypernetworks_mlps.") - 1,
            transformer_dim=prompt_width,
            transformer=modeling.TwoWayTransformer(
                depth=_count(shapes, "mask_decoder.transformer.layers."),
                embedding_dim=prompt_width,
                num_heads=_DECODER_HEADS,
                mlp_dim=_shape(shapes, "mask_decoder.transformer.layers.0.mlp.lin1.weight", 2)[0],
                attention_downsample_rate=prompt_width // _shape(shapes, attention, 2)[0],
            ),
            iou_head_depth=_count(shapes, "mask_decoder.iou_prediction_head.layers."),
            iou_head_hidden_dim=_shape(shapes, "mask_decoder.iou_prediction_head.layers.0.weight", 2)[0],
        )
    return modeling.Sam(encoder, prompts, decoder)  # outside: its colour constants are not in the file


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str, dimensions: int) -> tuple[int, ...]:
    shape = shapes[name]
    if len(shape) != dimensions or 0 in shape:
        raise ValueError(f"{name} is {shape}")
    return shape


def _count(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """How many layers there are. Gaps in their numbers come out as missing and unused tensors."""
    return len({name.removeprefix(prefix).partition(".")[0] for name in shapes if name.startswith(prefix)})
