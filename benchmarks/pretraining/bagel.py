"""Pretraining of BAGEL beyond the adapter: create a small random checkpoint, train answers, write a checkpoint."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from attrs import frozen
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from einops import rearrange
from PIL.Image import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.tokenizer import train_tokenizer
from srum_bagel.attention import Projected, Rope, attend
from srum_bagel.checkpoint import build_sizes
from srum_bagel.denoiser import BagelDenoiser
from srum_bagel.model import Bagel
from srum_bagel.prompting import BOS, END, EOS, START
from srum_bagel.vae import Autoencoder, AutoencoderSizes
from srum_bagel.vision import Eye
from srum_core.models.tensors import pad_rows

SPECIAL = ("<|endoftext|>", BOS, EOS, START, END)

AUTOENCODER = AutoencoderSizes(widths=(64, 64, 64), blocks=0, channels=16)


@frozen
class Blueprint:
    """Sizes of a small model; images are `side` pixels, latent cells `factor · patch` pixels."""

    side: int = 32
    hidden: int = 128
    mlp: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    vision_hidden: int = 64
    vision_mlp: int = 128
    vision_layers: int = 3
    vision_heads: int = 4
    vision_patch: int = 4
    autoencoder: AutoencoderSizes = AUTOENCODER
    patch: int = 2
    vocabulary: int = 440
    theta: float = 10000.0


def create(directory: Path, blueprint: Blueprint, corpus: Iterable[str], seed: int = 0) -> None:
    """Write the whole directory. Velocities are zero at first (`llm2vae`), residual outputs small."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(corpus, blueprint.vocabulary, directory, SPECIAL, SPECIAL[0], EOS)
    b = blueprint
    language = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": b.hidden,
        "intermediate_size": b.mlp, "num_hidden_layers": b.layers, "num_attention_heads": b.heads,
        "num_key_value_heads": b.kv_heads, "vocab_size": -(-len(tokenizer) // 16) * 16, "rms_norm_eps": 1e-6,
        "rope_theta": b.theta, "max_position_embeddings": 4096, "tie_word_embeddings": False, "qk_norm": True,
    }  # fmt: skip
    vision = {
        "model_type": "siglip_vision_model", "hidden_act": "gelu_pytorch_tanh", "hidden_size": b.vision_hidden,
        "intermediate_size": b.vision_mlp, "num_hidden_layers": b.vision_layers + 1, "num_channels": 3,
        "num_attention_heads": b.vision_heads, "patch_size": b.vision_patch, "image_size": b.side,
        "layer_norm_eps": 1e-6,
    }  # fmt: skip
    (directory / "llm_config.json").write_text(json.dumps(language, indent=2) + "\n", "utf-8")
    (directory / "vit_config.json").write_text(json.dumps(vision, indent=2) + "\n", "utf-8")
    channels, factor = b.autoencoder.channels, b.autoencoder.factor
    sizes = build_sizes(
        language, vision, cell=b.patch**2 * channels,
        latent_side=b.side // (factor * b.patch), vision_side=b.side // b.vision_patch,
    )  # fmt: skip
    denoiser = BagelDenoiser(sizes.language, sizes.cell, sizes.latent_side, (0, 0), sizes.theta)
    eye = Eye(sizes.vision, b.hidden, sizes.vision_side)
    _initialise(denoiser, b.layers)
    denoiser.latent_pos_embed.pos_embed.data = sincos_table(sizes.latent_side, b.hidden)
    eye.vit_pos_embed.pos_embed.data = sincos_table(sizes.vision_side, b.hidden)
    nn.init.normal_(eye.vit_model.vision_model.embeddings.position_embedding.weight, std=0.02)
    save_file({**denoiser.state_dict(), **eye.state_dict()}, directory / "ema.safetensors", metadata={"format": "pt"})
    _save_autoencoder(Autoencoder(b.autoencoder), directory)


def _initialise(denoiser: BagelDenoiser, layers: int) -> None:
    for name, parameter in denoiser.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 2 and "pos_embed" not in name:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
            if "o_proj" in name or "down_proj" in name:
                parameter.data /= (2 * layers) ** 0.5
    nn.init.normal_(denoiser.language_model.model.embed_tokens.weight, std=0.5)
    nn.init.zeros_(denoiser.llm2vae.weight)


def sincos_table(side: int, width: int) -> Tensor:
    """Return a 2-D table (side², width), row-major: columns in the first half of the channels, rows in the second."""
    table: Tensor = get_2d_sincos_pos_embed(width, side, base_size=side, output_type="pt")
    return table.float()


def _save_autoencoder(autoencoder: Autoencoder, directory: Path) -> None:
    """Save the autoencoder, with attention matrices as 1×1 convolutions."""
    names, tensors = autoencoder.official_keys(), {}
    for key, value in autoencoder.state_dict().items():
        matrix = "attn_1" in names[key] and value.dim() == 2
        tensors[names[key]] = (value[:, :, None, None] if matrix else value).cpu().contiguous()
    save_file(tensors, directory / "ae.safetensors", metadata={"format": "pt"})


# ---- answers and writing ---------------------------------------------------------------------------------------------

IGNORED = -100


@frozen
class _Block:
    """Consecutive exchanges of about the same length in the flat row: `count` of `length` tokens each."""

    start: int
    count: int
    length: int
    image: Tensor
    """(count,) the image of each exchange."""


class _Lessons:
    """An attention plan for one flat row: [images][block of exchanges][block]…. An image and its exchanges attend to
    all of the image; exchanges are causal and do not attend to each other. An exchange has the rotary positions that it
    would have alone. Exchanges are padded at the end only, where causality hides the padding."""

    experts, wanted = ("",), (True,)

    def __init__(self, angles: Rope, images: int, valid: Tensor, blocks: Sequence[_Block]) -> None:
        """`valid` (images, t): False where an image has fewer tokens than the largest."""
        self.angles, self.images, self.blocks = (angles,), images, blocks
        self.valid = None if bool(valid.all()) else valid[:, None, None, :]
        self.size = valid.shape[1]

    def attend(self, layer: int, streams: Sequence[Projected]) -> list[Tensor | None]:
        ((q, k, v),) = streams
        assert q is not None
        und = (q, k, v)
        image_tokens = self.images * self.size
        q, k, v = (rearrange(each[0, :, :image_tokens], "h (n t) d -> n h t d", n=self.images) for each in und)
        out = [attend(q, k, v, self.valid)]
        for block in self.blocks:
            part = slice(block.start, block.start + block.count * block.length)
            qs, ks, vs = (rearrange(each[0, :, part], "h (n t) d -> n h t d", n=block.count) for each in und)
            keys, values = torch.cat([k[block.image], ks], dim=2), torch.cat([v[block.image], vs], dim=2)
            causal = torch.ones(block.length, block.length, dtype=torch.bool, device=q.device).tril()
            mask = torch.cat([causal.new_ones(block.length, self.size), causal], dim=1)[None, None]
            if self.valid is not None:
                hidden = torch.cat([self.valid[block.image], causal.new_ones(block.count, 1, 1, block.length)], dim=3)
                mask = mask & hidden
            out.append(attend(qs, keys, values, mask))
        return [torch.cat([rearrange(each, "n h t d -> h (n t) d") for each in out], dim=1)[None]]


def answer_loss(model: Bagel, images: Sequence[Image], exchanges: Sequence[Sequence[tuple[str, str]]]) -> Tensor:
    """Return the mean cross-entropy of the answers' tokens. `exchanges[i]`: (question, answer) pairs about
    `images[i]`."""
    chat, denoiser = model.chat, model.denoiser
    device = denoiser.device
    views = model.look(images)
    start, end = (denoiser.embed_text(torch.tensor([i], device=device)) for i in chat.markers)
    rows, valid = pad_rows([torch.cat([start, tokens.to(start), end]) for tokens in views])
    ids, places, targets = list[int](), [0] * valid.numel(), [IGNORED] * valid.numel()
    blocks = list[_Block]()
    for group in _alike([(i, *_tokens(model, *pair)) for i, pairs in enumerate(exchanges) for pair in pairs]):
        length = max(len(exchange) for _, exchange, _ in group)
        about = torch.tensor([i for i, _, _ in group], device=device)
        blocks.append(_Block(len(places), len(group), length, about))
        for _, exchange, target in group:
            padding = length - len(exchange)
            ids += exchange + [0] * padding
            targets += target + [IGNORED] * padding
            places += range(1, 1 + length)
    text = denoiser.embed_text(torch.tensor(ids, device=device))
    row = torch.cat([rows.flatten(0, 1), text])[None]
    rope = denoiser.rope(torch.tensor(places, device=device)[None])
    (und,) = denoiser.language_model.model([row], _Lessons(rope, len(images), valid, blocks))
    goals = torch.tensor(targets, device=device)
    # Only where an answer is expected: the head over every position would cost as much as a layer.
    logits = denoiser.language_model.lm_head(und[0][goals != IGNORED])
    return F.cross_entropy(logits.float(), goals[goals != IGNORED])


def _tokens(model: Bagel, question: str, answer: str) -> tuple[list[int], list[int]]:
    """Return an exchange's tokens, and the target after each."""
    question_ids: list[int] = model.chat.frame(question).tolist()
    answer_ids = [model.chat.bos, *model.chat.ids(answer)]
    return question_ids + answer_ids, [IGNORED] * len(question_ids) + [*answer_ids[1:], model.chat.eos]


_Exchange = tuple[int, list[int], list[int]]


def _alike(exchanges: Sequence[_Exchange]) -> list[list[_Exchange]]:
    """Group exchanges so that the shortest of a group has at least 0.7 of the longest's tokens: for little padding."""
    groups: list[list[_Exchange]] = []
    for exchange in sorted(exchanges, key=lambda exchange: -len(exchange[1])):
        if not groups or len(exchange[1]) < 0.7 * len(groups[-1][0][1]):
            groups.append([])
        groups[-1].append(exchange)
    return groups


def write(model: Bagel, directory: Path, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Write the whole model in the published layout, with the autoencoder in bfloat16 to stay small."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {**model.denoiser.state_dict(), **model.eye.state_dict(), **(tensors or {})}
    model.save(directory, {key: value.contiguous() for key, value in state.items()})
    _save_autoencoder(copy.deepcopy(model.autoencoder).bfloat16(), directory)
