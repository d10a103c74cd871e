"""GenEval's detector and colour classifier, on small random checkpoints in the layout of the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_data import geneval_folder
from near import off
from PIL import Image
from rows import each_row
from safetensors.torch import load_file, save_file
from test_evaluation import made, model, srum, use
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    SwinConfig,
)

from srum_benchmarks.detections import Detection
from srum_benchmarks.geneval import detection, detector
from srum_benchmarks.geneval.detection import crop
from srum_benchmarks.geneval.detector import Colors, Detector, Instance
from srum_benchmarks.geneval.scoring import COLORS
from srum_core.errors import CheckpointError, PluginError
from srum_core.evaluation import tables
from srum_core.evaluation.run import Evaluation
from srum_core.records import Question

CPU = torch.device("cpu")
FULL = np.ones((64, 64), dtype=bool)
LABELS = ("dog", "mouse", "sofa", "keyboard", "apple")


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mask2former")
    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=9,
        id2label=dict(enumerate(LABELS)), label2id={name: place for place, name in enumerate(LABELS)},
    )  # fmt: skip
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(each) for each in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    words = [*letters, *(each + "</w>" for each in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(words), "eos_token_id": len(words) - 1, "bos_token_id": len(words) - 2}
    config = CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 8}, projection_dim=12)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's sizes, divided by ten."""
    monkeypatch.setattr(detector, "SHORT", 80)
    monkeypatch.setattr(detector, "LONG", 133)


# ---- images --------------------------------------------------------------------------------------------------------


def test_images_are_resized_and_padded_as_in_the_original() -> None:
    pixels, seen = detector.batch([noise_image(1024, 1024), noise_image(1000, 400)])
    assert seen == [(800, 800), (533, 1333)]
    assert pixels.shape == (2, 3, 800, 1344)
    grey = [(128 - 123.675) / 58.395, (128 - 116.28) / 57.12, (128 - 103.53) / 57.375]
    for padding in (pixels[0, :, :, 800:], pixels[1, :, 533:]):
        assert off(padding, torch.tensor(grey)[:, None, None].expand_as(padding)) <= 1e-5
    (flat,), _ = detector.batch([Image.new("RGB", (64, 64), (124, 116, 104))])
    assert flat.abs().max() < 0.02  # the colour that the normalisation takes away


def test_what_follows_the_network_is_done_query_by_query(eyes: Path, small: None) -> None:
    """Against the definition, in loops: softmax without "none", the best pairs, confidence times mean mask."""
    image = noise_image(120, 90)
    found = Detector(str(eyes), CPU).detect([image])[0]
    network = Mask2FormerForUniversalSegmentation.from_pretrained(eyes).eval()
    pixels, ((rows, columns),) = detector.batch([image])
    with torch.no_grad():
        made = network(pixels)
    expected = []
    for logits, mask in zip(made.class_queries_logits[0], made.masks_queries_logits[0], strict=True):
        big = torch.nn.functional.interpolate(mask[None, None], pixels.shape[-2:], mode="bilinear")
        big = big[..., :rows, :columns]
        whole = torch.nn.functional.interpolate(big, (90, 120), mode="bilinear")[0, 0]
        inside = whole > 0
        sure = float(whole.sigmoid()[inside].mean()) if inside.any() else 0.0
        ys, xs = np.nonzero(inside.numpy())
        box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if inside.any() else (0, 0, 0, 0)
        expected += [(float(share) * sure, place, box) for place, share in enumerate(logits.softmax(-1)[:-1])]
    expected.sort(key=lambda each: -each[0])
    assert len(found) == 9 * len(LABELS)
    for mine, (score, place, box) in zip(found, expected, strict=True):
        assert mine.score == pytest.approx(score, rel=1e-4)
        assert mine.label == {1: "computer mouse", 2: "couch", 3: "computer keyboard"}.get(place, LABELS[place])
        assert mine.box == tuple(map(float, box))
        assert mine.mask.shape == (90, 120)


def test_no_more_than_a_hundred_and_the_same_together_as_alone(
    eyes: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector, "MOST", 10)
    looks, images = Detector(str(eyes), CPU), [noise_image(80, 80, 1), noise_image(100, 60, 3), noise_image(80, 80, 2)]
    together = looks.detect(images)
    for image, found in zip(images, together, strict=True):
        assert len(found) == 10
        (alone,) = looks.detect([image])
        assert [each.label for each in alone] == [each.label for each in found]
        assert [each.score for each in alone] == pytest.approx([each.score for each in found], rel=1e-4)


# ---- colours ---------------------------------------------------------------------------------------------------------


def test_a_colour_is_the_nearest_of_the_mean_texts(clip: Path) -> None:
    image = noise_image(64, 64)
    mask = np.zeros((64, 64), dtype=bool)
    mask[10:40, 5:50] = True
    things = [Instance("dog", (5.0, 10.0, 50.0, 40.0), 0.9, mask), Instance("dog", (0.0, 0.0, 64.0, 64.0), 0.9, ~mask)]
    reads = Colors(str(clip), CPU)
    texts = reads.texts("dog")
    assert off(texts.norm(dim=-1), torch.ones(len(COLORS))) <= 1e-5
    three = ["a photo of a red dog", "a photo of a red-colored dog", "a photo of a red object"]
    one = reads.tokenizer(three, padding=True, return_tensors="pt")
    with torch.no_grad():
        made = reads.model.text_projection(reads.model.text_model(**one).pooler_output)
        unit = torch.nn.functional.normalize(made, dim=-1).mean(0)
        assert off(texts[0], unit / unit.norm()) <= 1e-5
        crops = [crop(image, thing.box, thing.mask) for thing in things]
        for thing, said in zip(things, reads.classify(crops, "dog"), strict=True):
            pixels = reads.processor(crop(image, thing.box, thing.mask), return_tensors="pt")["pixel_values"]
            seen = reads.model.visual_projection(reads.model.vision_model(pixels).pooler_output)[0]
            assert said == COLORS[int((texts @ seen).argmax())]


@pytest.mark.parametrize("high", [1, 3])
def test_a_flat_object_has_a_colour(clip: Path, high: int) -> None:
    """One or three rows of pixels are no channels."""
    (said,) = Colors(str(clip), CPU).classify([crop(noise_image(64, 64), (5.0, 8.0, 50.0, 8.0 + high))], "dog")
    assert said in COLORS


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every prompt asks for a red dog."""
    folder = geneval_folder(tmp_path_factory.mktemp("data"))
    path = folder / "prompts" / "evaluation_metadata.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["include"] = [{"class": "dog", "count": 1, "color": "red"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Path:
    assert srum("generate", *model(use("geneval", data), tmp_path / "run", "evaluate.images=2", limit=3)) == 0
    return tmp_path / "run"


def looked(run: Path, eyes: Path, clip: Path, *more: str) -> int:
    judge = f'{{use="mask2former", checkpoint="{eyes}", clip="{clip}", device="cpu"}}'
    return srum("judge", run, "--judge", judge, "--batch", "2", *more)


def test_an_evaluation_is_looked_at_and_scored(
    run: Path, eyes: Path, clip: Path, small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(detection, "SCORE", 0.0)
    asked: list[int] = []
    look = Detector.detect

    def counted(self: Detector, images: list[Image.Image]) -> Any:
        asked.append(len(images))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return look(self, images)

    monkeypatch.setattr(Detector, "detect", counted)
    assert looked(run, clip, clip, "--as", "wrong") == 2  # leaves nothing that scoring would stumble over
    assert looked(run, eyes, clip) == 130
    assert looked(run, eyes, clip) == 0
    assert asked == [2, 2, 2, 2]  # what was seen before the interruption is not looked at again
    answers = [json.loads(line) for line in (run / "answers/mask2former/part-0.jsonl").read_text().splitlines()]
    assert {each["sha256"] for each in answers} == {each.sha256 for each in Evaluation.open(run).generated()}
    for each in answers:
        found = json.loads(each["answer"])["detections"]
        assert found
        assert all((one["color"] in COLORS) == (one["label"] == "dog") for one in found)
    assert srum("score", run) == 0
    table = tables.read(run / "tables/mask2former/table.json")
    assert table.judge == f"mask2former ({eyes})"
    assert (table.by_name()["images"].count, table.readable) == (6, 1.0)
    before = made(run)
    assert looked(run, eyes, clip) == 0
    assert srum("score", run) == 0
    assert (made(run), len(asked)) == (before, 4)


def test_what_cannot_be_looked_with_or_at_is_told(
    run: Path,
    eyes: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert srum("judge", run) == 2
    assert "Its judge is mask2former: --judge mask2former" in capsys.readouterr().err
    assert looked(run, clip, clip, "--as", "a") == 2
    assert "is a checkpoint of the kind clip; what is needed is mask2former" in capsys.readouterr().err
    assert looked(run, tmp_path, clip, "--as", "b") == 2
    assert "cannot be read as a checkpoint of transformers" in capsys.readouterr().err
    with pytest.raises(PluginError, match="detects objects that a question names"):
        detection.Mask2Former().answer([Question(tmp_path / "none.png", "Is it a dog?")])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert looked(run, eyes, clip, "--as", "c") == 2
    assert 'pip install -e ".[detectors]"' in " ".join(capsys.readouterr().err.split())
    with pytest.raises(CheckpointError, match="kind mask2former; what is needed is clip"):
        Colors(str(eyes), CPU)


def test_a_class_that_the_detector_does_not_know_is_no_missing_object(
    run: Path, eyes: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Mask2FormerForUniversalSegmentation.from_pretrained(eyes)
    made.config.id2label = {**made.config.id2label, 0: "wolf"}
    made.save_pretrained(tmp_path / "forest")
    assert looked(run, tmp_path / "forest", clip) == 2
    assert "has no class for dog, which the prompts ask for" in capsys.readouterr().err
    assert not list((run / "answers").rglob("part-*"))


# ---- what is asked and answered --------------------------------------------------------------------------------------

RED = {"tag": "colors", "include": [{"class": "tv remote", "count": 1, "color": "red"}, {"class": "dog", "count": 2}]}


def test_a_question_says_in_words_and_for_programs_what_it_wants() -> None:
    want = detection.request_of({**RED, "exclude": [{"class": "cat", "count": 3}]})
    assert want == detection.Request(("tv remote", "dog", "cat"), ("tv remote",))
    text = detection.question(want)
    assert "Find every tv remote and every dog and every cat" in text
    assert "Of every tv remote also say its colour: red, orange" in text
    assert detection.understood(text) == want
    assert "colour" not in detection.question(detection.Request(("dog",), ()))
    assert detection.understood("Is it a dog?") is detection.understood('{"objects": 3}') is None


@each_row(
    "text, message",
    [
        ("I see a dog.", 'no JSON with a list "detections"'),
        ('{"detections": 3}', 'no JSON with a list "detections"'),
        ('{"detections": [{"label": "dog"}]}', 'a detection needs "label", "box"'),
        ('{"detections": [{"label": "tv remote", "box": [1, 2, 3, 4], "score": 0.5}]}', "colour of the tv remote"),
    ],
)
def test_what_is_no_list_of_detections_is_unreadable_and_no_missing_object(text: str, message: str) -> None:
    found, why = detection.read(text, RED)
    assert found is None
    assert message in why


def test_detections_are_read_as_they_were_told() -> None:
    seen = (Detection("tv remote", (0.5, 1.25, 3.0, 4.0), 1 / 3, "red"), Detection("cat", (0.0, 0.0, 1.0, 1.0), 0.9))
    assert detection.read(detection.as_json(seen), RED) == (seen, "")
    unsure = '```json\n{"detections": [{"label": "tv remote", "box": [1, 2, 3, 4], "score": 0.3}]}\n```'
    assert detection.read(unsure, RED)[0] is not None  # it does not count, so its colour does not matter
    assert detection.read('Nothing: {"detections": []}', RED) == ((), "")


def test_a_checkpoint_without_its_weights_is_refused(eyes: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((eyes / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"The weights of .* cannot be read"):
        Detector(str(tmp_path), CPU)
    weights = load_file(eyes / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "class_predictor" not in name}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 2 weights of Mask2Former.*class_predictor"):
        Detector(str(tmp_path), CPU)
