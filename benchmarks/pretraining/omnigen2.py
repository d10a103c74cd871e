"""Pretrain a tiny OmniGen2: `python -m pretraining.omnigen2 --out DIR`.

Only the diffusion transformer is trained, on captioned images of the world of shapes. The language model that encodes
the captions is random and stays so, and the autoencoder is the bundled BAGEL's: both models publish FLUX.1's. Images
are rendered fresh for every step from (seed, step); the same command again resumes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import asdict, evolve, frozen
from safetensors.torch import save_file
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from pretraining import blip3o, fit
from pretraining.curriculum import captioned
from pretraining.fit import flow_loss, make_parser, named_of, parse
from pretraining.measure_head import generated
from pretraining.pretrain_head import corpus, images
from pretraining.tokenizer import train_tokenizer
from srum_core.models.qwen_vl import END, PAD, SPECIAL, language_config
from srum_core.plugins import discover
from srum_omnigen2.denoiser import Denoiser, Sizes
from srum_omnigen2.sampling import DROPPED, GENERATE

LANGUAGE = blip3o.Blueprint(hidden=64, mlp=96, layers=1, heads=2, kv_heads=1, vocabulary=512)
"""Sizes of the language model. So large a vocabulary has a token for each word around a caption."""
SIZES = Sizes(
    patch_size=2, in_channels=16, out_channels=16, hidden_size=96, num_layers=5, num_refiner_layers=1,
    num_attention_heads=4, num_kv_heads=2, multiple_of=32, ffn_dim_multiplier=0.5, norm_eps=1e-5,
    axes_dim_rope=(8, 8, 8), text_feat_dim=64, timestep_scale=1000.0,
)  # fmt: skip
SIDE = 32
"""Pixels of an image's side: 4x4 tokens."""


@frozen(kw_only=True)
class Recipe(fit.Recipe):
    """The training of the tiny model."""

    steps: int = 7000
    batch: int = 64
    rate: float = 1.5e-3
    """Learning rate of AdamW."""


def create(directory: Path, corpus: Iterable[str], seed: int = 0) -> None:
    """Write a checkpoint in the published layout, in 16 bits: all of it random but the autoencoder."""
    torch.manual_seed(seed)
    frame = [f"system\n{GENERATE}", f"system\n{DROPPED}", "user\n"] * 50
    tokenizer = train_tokenizer([*frame, *corpus], LANGUAGE.vocabulary, directory / "processor", SPECIAL, PAD, END)
    Qwen2VLImageProcessorPil().save_pretrained(directory / "processor")
    language = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
        **blip3o.qwen_config(LANGUAGE, tokenizer),
    }  # fmt: skip
    configs = {
        "mllm/config": language,
        "transformer/config": {"_class_name": "OmniGen2Transformer2DModel", **asdict(SIZES)},
        "scheduler/scheduler_config": {"_class_name": "FlowMatchEulerDiscreteScheduler", "dynamic_time_shift": True},
    }
    for name, config in configs.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / f"{name}.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    weights = {
        "mllm/model": blip3o.language_weights(language_config(language)),
        "transformer/diffusion_pytorch_model": Denoiser(SIZES, references=True).state_dict(),
    }
    for name, tensors in weights.items():
        half = {key: tensor.detach().half().contiguous() for key, tensor in tensors.items()}
        save_file(half, directory / f"{name}.safetensors", metadata={"format": "pt"})
    source: Any = discover().create("adapter", {"use": "bagel", "checkpoint": "bundled:shapes", "device": "cpu"})
    autoencoder = source.autoencoder
    autoencoder.net.register_to_config(scaling_factor=autoencoder.scale, shift_factor=autoencoder.shift)
    autoencoder.net.bfloat16().save_pretrained(directory / "vae")  # the precision it is bundled in


def load(directory: Path, shift: float, guidance: float) -> Any:
    sampling = {"steps": 25, "guidance": guidance, "shift": shift, "unconditional": "dropped_caption"}
    common = {"use": "omnigen2", "dtype": "float32", "device": "cpu", "offload": "none", "size": [SIDE, SIDE]}
    return discover().create("adapter", {**common, "checkpoint": str(directory), "sampling": sampling})


def train(model: Any, recipe: Recipe, out: Path) -> None:
    """Train the transformer by flow matching of latents given captions, as the adapter is trained."""
    schedule = evolve(model.recipe.schedule, shift=recipe.shift)

    def loss_of(step: int, batch: Any) -> tuple[Tensor, dict[str, float]]:
        drawings, captions = batch
        return flow_loss(model.denoiser, model.encode(images(drawings)), model.read(captions), schedule, step), {}

    phase = recipe.phase("transformer", recipe.steps, recipe.rate)
    fit.fit(phase, out, named_of(denoiser=model.denoiser), captioned(recipe, recipe.steps, recipe.batch), loss_of)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--guidance", type=float, default=2.0, help="for what is measured in the end")
    recipe, options = parse(parser, Recipe(), arguments)
    out, guidance = options.out, options.guidance
    if not (out / "fresh" / "vae" / "config.json").is_file():
        create(out / "fresh", corpus(), recipe.seed)
    model = load(out / "fresh", recipe.shift, guidance)
    train(model, recipe, out)
    model.save(out / "model", model.denoiser.state_dict())
    if options.measure:
        print(json.dumps(generated(load(out / "model", recipe.shift, guidance), options.measure), indent=2))


if __name__ == "__main__":
    main()
