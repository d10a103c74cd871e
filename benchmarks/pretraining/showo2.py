"""Pretrain a tiny Show-o2: `python -m pretraining.showo2 --out DIR`.

Two phases on the world of shapes, each resumable by repeating the command: the autoencoder, and then everything that
reaches the velocity, on captioned images. The published model starts from a language model that can read; this one's is
random, so language model and flow head are trained together. Answering is not trained: who judges is another model
(`answerer`). Images are rendered fresh for every step from (seed, step).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import evolve, frozen
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SiglipVisionConfig

from pretraining import curriculum, fit
from pretraining.curriculum import Steps, captioned, loader
from pretraining.fit import Phase, as_tensor, autoencoder_loss, flow_loss, make_parser, named_of, parse
from pretraining.measure_head import figures, generated, rendered
from pretraining.pretrain_head import corpus
from pretraining.tokenizer import train_tokenizer
from srum_core.models.qwen_vl import END, PAD, SPECIAL
from srum_core.models.tensors import patchify
from srum_core.plugins import discover
from srum_showo2.autoencoder import Autoencoder
from srum_showo2.checkpoint import ATTENTION, head_config, language_config
from srum_showo2.denoiser import ShowO2Denoiser, Sizes
from srum_showo2.prompting import ADDED, PADDING

WIDTH = 8
"""Channels of the autoencoder's first layer."""
PATCH = 1
"""Latent pixels per side of an image token, which then has 8x8 pixels; with the published 2, an image has 2x2
tokens."""
SIDE = 32
"""Pixels of an image's side: 4x4 tokens."""
VOCABULARY = 400
LANGUAGE: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 224, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "hidden_act": "silu", "max_position_embeddings": 4096,
    "rope_theta": 10000.0, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": True,
}  # fmt: skip
VISION: dict[str, Any] = {"num_attention_heads": 4, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
SEMANTIC: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
HEAD = {"width": 96, "layers": 3, "heads": 4, "kv_heads": 2, "head_width": 24, "mlp": 192}


@frozen(kw_only=True)
class Recipe(fit.Recipe):
    """The training of the tiny model."""

    autoencoder_steps: int = 1500
    autoencoder_batch: int = 32
    autoencoder_rate: float = 3e-3
    """Learning rate of AdamW; it falls to zero over the whole phase."""
    steps: int = 6000
    batch: int = 64
    rate: float = 1.5e-3
    """Learning rate of AdamW."""
    shift: float = 1.5


def create(directory: Path, corpus: Iterable[str], seed: int = 0) -> None:
    """Write a checkpoint of random weights in the published layout, in 16 bits. The repositories that the published
    one names are its folders: language (without weights), vision and vae."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(corpus, VOCABULARY, directory / "language", SPECIAL, PAD, END)
    rows = len({*tokenizer.get_vocab(), PADDING, *ADDED})
    sizes = Sizes(
        language_config(LANGUAGE, rows), SiglipVisionConfig(**SEMANTIC, **VISION, **ATTENTION), head_config(**HEAD),
        channels=16, patch=PATCH, side=SIDE // (PATCH * Autoencoder.FACTOR), tied=True,
    )  # fmt: skip
    configs = {
        "language": {**LANGUAGE, "vocab_size": rows},
        "vision": {"model_type": "siglip_vision_model", **SEMANTIC, **VISION},
        "": {
            "_class_name": "Showo2Qwen2_5", "llm_model_path": "language", "llm_vocab_size": rows,
            "clip_pretrained_model_path": "vision", "clip_latent_dim": SEMANTIC["hidden_size"],
            "hidden_size": LANGUAGE["hidden_size"], "image_latent_dim": sizes.channels,
            "image_latent_height": sizes.side, "image_latent_width": sizes.side, "patch_size": PATCH,
            "num_diffusion_layers": HEAD["layers"], "add_time_embeds": True, "add_qk_norm": True,
        },
    }  # fmt: skip
    for name, config in configs.items():
        (directory / name).mkdir(exist_ok=True)
        (directory / name / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    denoiser = ShowO2Denoiser(sizes, (0, 0))
    for name, parameter in denoiser.named_parameters():
        if "adaLN_modulation" in name or "diffusion_head_b.linear" in name:
            nn.init.zeros_(parameter)  # every block starts as the identity, and the velocity as zero
    _write(directory / "diffusion_pytorch_model.safetensors", denoiser)
    (directory / "vae").mkdir()
    _write(directory / "vae" / "diffusion_pytorch_model.safetensors", Autoencoder(WIDTH).net)


def _write(path: Path, module: nn.Module) -> None:
    half = {name: tensor.detach().half().contiguous() for name, tensor in module.state_dict().items()}
    save_file(half, path, metadata={"format": "pt"})


def load(directory: Path, shift: float, guidance: float) -> Any:
    sampling = {"steps": 25, "guidance": guidance, "shift": shift}
    options = {"use": "showo2", "checkpoint": str(directory), "dtype": "float32", "device": "cpu"}
    return discover().create("adapter", {**options, "sampling": sampling})


def use_last_slices(net: nn.Module) -> None:
    """Compute with the last slice of every kernel only: for clips of one frame, the other slices see only padding."""
    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            module.forward = partial(_convolve_last_slice, module)  # type: ignore[method-assign]


def _convolve_last_slice(layer: nn.Conv3d, x: Tensor) -> Tensor:
    weight = layer.weight[:, :, -1]
    return F.conv2d(x[:, :, 0], weight, layer.bias, padding=weight.shape[-1] // 2)[:, :, None]


def train_autoencoder(model: Any, recipe: Recipe, out: Path) -> None:
    net = model.autoencoder.net
    plan = curriculum.Recipe(
        seed=recipe.seed, autoencoder_steps=recipe.autoencoder_steps, autoencoder_batch=recipe.autoencoder_batch
    )

    def loss_of(_: int, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x = as_tensor(batch)
        mean, variance = model.autoencoder.moments(x).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * variance) * torch.randn_like(mean)
        return autoencoder_loss(x, net.decoder(net.post_quant_conv(z[:, :, None]))[:, :, 0], z, variance)

    phase = Phase("autoencoder", recipe.autoencoder_steps, recipe.autoencoder_rate, ema=0.99, seed=recipe.seed)
    fit.fit(phase, out, named_of(net=net), lambda done: loader(Steps(plan, ("", ""), done, "autoencoder")), loss_of)


@torch.no_grad()
def normalise(autoencoder: Autoencoder, images: Tensor) -> None:
    """Give the latents the channels' mean and deviation of the published autoencoder, which no file states.

    The channels are correlated, and vary mostly along one axis, which would dominate a flow. So deviations along the
    axes become their square roots before the channels are scaled; equal ones would let noise in empty axes weigh as
    much as others. The posterior's variance becomes almost 0, and unused slices of kernels become 0."""
    net = autoencoder.net
    mean, deviation = (torch.tensor(each) for each in (net.config.latents_mean, net.config.latents_std))
    channels, first, output = len(mean), net.quant_conv, net.post_quant_conv
    moments = autoencoder.moments(images)[:, :channels].movedim(1, -1).flatten(0, -2)
    centre, (variances, axes) = moments.mean(0), torch.linalg.eigh(torch.cov(moments.T))
    mixed = axes * variances.clamp(min=1e-6 * variances[-1]) ** -0.25 @ axes.T
    mixed *= (deviation / ((moments - centre) @ mixed.T).std(0))[:, None]
    first.weight[:channels] = torch.einsum("ij,jk...->ik...", mixed, first.weight[:channels])
    first.bias[:channels] = mixed @ (first.bias[:channels] - centre) + mean
    first.weight[channels:], first.bias[channels:] = 0, -30
    undone = torch.linalg.inv(mixed)
    output.bias += output.weight[:, :, 0, 0, 0] @ (centre - undone @ mean)
    output.weight.copy_(torch.einsum("ij...,jk->ik...", output.weight, undone))
    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            module.weight[:, :, :-1] = 0


def train(model: Any, recipe: Recipe, out: Path) -> None:
    """Train all but the autoencoder by flow matching of latents given captions, as the adapter is trained."""
    schedule = evolve(model.recipe.schedule, shift=recipe.shift)

    def loss_of(step: int, batch: Any) -> tuple[Tensor, dict[str, float]]:
        drawings, captions = batch
        with torch.no_grad():
            clean = list(patchify(model.autoencoder.encode(as_tensor(drawings)), PATCH))
        return flow_loss(model.denoiser, clean, model.condition(captions), schedule, step), {}

    parameters = {  # so that the head's layers are trained as the language model's are
        name.replace("diffusion_head_a.", "diffusion_head_a.layers."): parameter
        for name, parameter in named_of(denoiser=model.denoiser).items()
    }
    phase = recipe.phase("transformer", recipe.steps, recipe.rate)
    fit.fit(phase, out, parameters, captioned(recipe, recipe.steps, recipe.batch), loss_of)


def rebuilt(model: Any, count: int) -> dict[str, Any]:
    """Return the share of rendered images that are correct after the autoencoder: the upper bound for the model."""
    scenes, images = rendered(count)
    decoded = model.decode(model.encode(images))
    return figures([(127.5 * (x.clamp(-1, 1) + 1)).round().byte().permute(1, 2, 0).numpy() for x in decoded], scenes)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--guidance", type=float, default=2.0, help="for what is measured in the end")
    recipe, options = parse(parser, Recipe(), arguments)
    out, count, guidance = options.out, options.measure, options.guidance
    fresh = out / "fresh"
    if not (fresh / "vae" / "diffusion_pytorch_model.safetensors").is_file():
        create(fresh, corpus(), recipe.seed)
    model = load(fresh, recipe.shift, guidance)
    use_last_slices(model.autoencoder.net)
    train_autoencoder(model, recipe, out)
    images = np.stack([np.asarray(image) for image in rendered(256, "train")[1]])
    normalise(model.autoencoder, as_tensor(images))
    _write(fresh / "vae" / "diffusion_pytorch_model.safetensors", model.autoencoder.net)
    model = load(fresh, recipe.shift, guidance)
    if count:
        print(json.dumps({"rebuilt": rebuilt(model, count)["all"]}, indent=2), flush=True)
    use_last_slices(model.autoencoder.net)
    train(model, recipe, out)
    weights = {name: tensor for name, tensor in model.denoiser.state_dict().items() if name in model.files.shapes}
    model.save(out / "model", weights)
    if count:
        print(json.dumps(generated(load(out / "model", recipe.shift, guidance), count), indent=2))


if __name__ == "__main__":
    main()
