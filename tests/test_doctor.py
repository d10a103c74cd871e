"""`srum doctor`: silent about the bundled model, and the right sentence for each way to break it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from srum_bagel.model import Bagel
from srum_bagel.options import Options, Sampling
from srum_core import config, plugins
from srum_core.cli.main import main
from srum_core.doctor import answering, cost, flow_convention, generation, geometry
from srum_core.doctor.examine import examine
from srum_core.doctor.findings import Cost, Finding
from srum_core.doctor.subject import Subject, text_in_name, with_given_images, with_own_images
from srum_core.errors import ConfigError
from srum_core.records import Question, Sample
from srum_core.runs.run import Run

HERE = Path(__file__).parent
GOLDEN = [
    f"adapter.checkpoint={HERE / 'golden' / 'bagel' / 'checkpoint'}",
    "adapter.size=[64,64]",
    "adapter.generation_sides=[64,64]",
    "adapter.vision_sides=[56,56]",
    "adapter.sampling.steps=3",
]
QUICK = ["adapter.sampling.steps=8", "generate.batch=2", "judge.batch=2"]


class Wrapped(nn.Module):
    """A denoiser whose time, latents or velocity are tampered with."""

    def __init__(self, inner: nn.Module, said: Callable[..., Any], time: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.said, self.time = inner, said, time

    def forward(self, noisy: Sequence[Tensor], time: Tensor, condition: Any) -> list[Tensor]:
        said = self.inner(noisy, self.time(time), condition)
        return [self.said(v, x, t) for v, x, t in zip(said, noisy, time, strict=True)]


class Broken:
    """A model that does everything as the real one, except for what it is given here."""

    def __init__(self, model: Bagel, **instead: Any) -> None:
        self.__dict__.update(instead)
        self.real = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["real"], name)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    registry = plugins.discover()
    return Run(
        tmp_path_factory.mktemp("doctor") / "run",
        config.load_settings("bagel", ["shapes"], None, QUICK, registry),
        registry,
    )


@pytest.fixture(scope="module")
def model(run: Run) -> Bagel:
    made = run.model(0)
    assert isinstance(made, Bagel)
    return made


@pytest.fixture(scope="module")
def subject(run: Run, model: Bagel, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return with_own_images(run, model, tmp_path_factory.mktemp("images"))


@pytest.fixture
def check(subject: Subject) -> Iterator[Callable[..., dict[str, Finding]]]:
    """Looks at the bundled model, with some of its members replaced."""

    def look(checks: Callable[[Subject], list[Finding]], **instead: Any) -> dict[str, Finding]:
        broken = Subject(subject.run, Broken(subject.model, **instead), subject.candidates, subject.texts, True)
        return {finding.check: finding for finding in checks(broken)}

    return look


def wrong(findings: Mapping[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.verdict == "wrong"}


# ---- sign, time, scale -----------------------------------------------------------------------------------------------


def same(velocity: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
    return velocity


CONVENTIONS = {
    "sign": (lambda v, x, t: -v, lambda t: t, "negate it in the adapter"),
    "reversed time": (same, lambda t: 1 - t, "Time runs in the wrong direction"),
    "time in thousandths for a model in [0, 1]": (same, lambda t: 1000 * t, "pass t unchanged"),
    "time in [0, 1] for a model in thousandths": (same, lambda t: t / 1000, "pass 1000 * t"),
    "reversed time in thousandths": (same, lambda t: 1 - t / 1000, "pass 1000 * (1 - t)"),
    "noise": (lambda v, x, t: x + (1 - t) * v, lambda t: t, "return (noise - noisy) / (1 - t)"),
    "clean": (lambda v, x, t: x - t * v, lambda t: t, "return (noisy - clean) / t"),
    "length": (lambda v, x, t: 20 * v, lambda t: t, " times as long as noise - clean"),
}


def test_the_bundled_models_convention_is_fine(check: Callable[..., dict[str, Finding]]) -> None:
    found = check(flow_convention.check)
    assert {finding.verdict for finding in found.values()} == {"fine"}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_another_convention_is_named(name: str, check: Callable[..., dict[str, Finding]], model: Bagel) -> None:
    said, time, fix = CONVENTIONS[name]
    found = check(flow_convention.check, denoiser=Wrapped(model.denoiser, said, time))
    assert wrong(found) == {flow_convention.SIGN}
    assert fix in found[flow_convention.SIGN].text
    if name == "length":
        message = re.search(r"(\d+) times as long", found[flow_convention.SIGN].text)
        assert message is not None
        assert 17 <= int(message[1]) <= 22, "the bundled model's own velocity is about as long as it should be"


def test_two_mistakes_are_told_together(check: Callable[..., dict[str, Finding]], model: Bagel) -> None:
    both = Wrapped(model.denoiser, lambda v, x, t: -v, lambda t: 1 - t)
    text = check(flow_convention.check, denoiser=both)[flow_convention.SIGN].text
    assert "negate it" in text
    assert "Time runs in the wrong direction" in text


def test_a_missing_scale_is_told_and_the_sign_is_not_blamed(
    check: Callable[..., dict[str, Finding]], model: Bagel
) -> None:
    found = check(flow_convention.check, encode=lambda images: [x / 0.3611 + 0.1159 for x in model.encode(images)])
    assert wrong(found) == {flow_convention.SCALE}
    assert "is the autoencoder's scale (and shift) applied" in found[flow_convention.SCALE].text
    message = re.search(r"a standard deviation of (\d\.\d)", found[flow_convention.SCALE].text)
    assert message is not None
    assert float(message[1]) == pytest.approx(1 / 0.3611, abs=0.3)


def test_latents_and_velocities_that_are_no_numbers_are_told(
    check: Callable[..., dict[str, Finding]], model: Bagel
) -> None:
    found = check(flow_convention.check, encode=lambda images: [x / 0 for x in model.encode(images)])
    assert "no finite numbers" in found[flow_convention.SCALE].text
    found = check(
        flow_convention.check, denoiser=Wrapped(model.denoiser, lambda v, x, t: v * float("nan"), lambda t: t)
    )
    assert "not finite" in found[flow_convention.SIGN].text


def test_untrained_weights_cannot_tell(subject: Subject, run: Run) -> None:
    settings = config.load_settings("bagel", ["shapes"], None, GOLDEN, run.registry)
    random = Run(run.folder, settings, run.registry)
    examined = Subject(random, random.model(0), subject.candidates, subject.texts, True)
    found = {finding.check: finding for finding in flow_convention.check(examined)}
    assert {finding.verdict for finding in found.values()} == {"undecided"}
    assert "untrained weights?" in found[flow_convention.SIGN].text
    assert examined.trained is False


# ---- latents ---------------------------------------------------------------------------------------------------------

TURNS = {
    "transposed": (lambda x: x.transpose(0, 1), {geometry.SHAPE, geometry.PLACE}, "Rows and columns are swapped"),
    "rows flipped": (lambda x: x.flip(0), {geometry.PLACE}, "The rows are flipped"),
    "columns flipped": (lambda x: x.flip(1), {geometry.PLACE}, "The columns are flipped"),
    "turned by half": (lambda x: x.flip(0, 1), {geometry.PLACE}, "turned by half"),
    "clockwise": (lambda x: x.rot90(-1), {geometry.SHAPE, geometry.PLACE}, "turned clockwise"),
    "anticlockwise": (lambda x: x.rot90(1), {geometry.SHAPE, geometry.PLACE}, "turned anticlockwise"),
}


def test_the_bundled_models_latents_are_in_place(check: Callable[..., dict[str, Finding]]) -> None:
    assert {finding.verdict for finding in check(geometry.check).values()} == {"fine"}


@pytest.mark.parametrize("name", TURNS)
def test_a_turned_grid_is_named(name: str, check: Callable[..., dict[str, Finding]], model: Bagel) -> None:
    turn, expected, sentence = TURNS[name]
    found = check(geometry.check, encode=lambda images: [turn(x) for x in model.encode(images)])
    assert wrong(found) == expected
    assert sentence in found[geometry.PLACE].text


def test_a_latent_that_is_not_local_is_undecided(check: Callable[..., dict[str, Finding]], model: Bagel) -> None:
    def shuffled(images: Sequence[Image.Image]) -> list[Tensor]:
        return [x.mean(dim=(0, 1), keepdim=True).expand(x.shape) for x in model.encode(images)]

    found = check(geometry.check, encode=shuffled)[geometry.PLACE]
    assert found.verdict == "undecided"
    assert "not local" in found.text


def test_a_model_for_squares_only_is_undecided(check: Callable[..., dict[str, Finding]], model: Bagel) -> None:
    squares = check(geometry.check, encode=lambda images: model.encode([i.resize((32, 32)) for i in images]))
    assert squares[geometry.SHAPE].verdict == "undecided"

    def refuses(images: Sequence[Image.Image]) -> list[Tensor]:
        if any(image.width != image.height for image in images):
            raise ValueError("squares only")
        return model.encode(images)

    assert "squares only" in check(geometry.check, encode=refuses)[geometry.SHAPE].text


def test_an_encoder_that_is_random_or_sees_neighbours_is_told(
    check: Callable[..., dict[str, Finding]], model: Bagel
) -> None:
    noisy = check(geometry.check, encode=lambda images: [x + torch.randn_like(x) / 9 for x in model.encode(images)])
    assert "must be repeatable" in noisy[geometry.REPEAT].text

    def leaking(images: Sequence[Image.Image]) -> list[Tensor]:
        latents = torch.stack(model.encode(images))
        return list(latents - latents.mean(dim=0, keepdim=True) / 9)

    assert "no image may be affected by its neighbours" in check(geometry.check, encode=leaking)[geometry.REPEAT].text


# ---- drawing ---------------------------------------------------------------------------------------------------------


def test_the_bundled_models_generating_is_fine(check: Callable[..., dict[str, Finding]]) -> None:
    assert {finding.verdict for finding in check(generation.check).values()} == {"fine"}


def test_seeds_that_leak_or_do_nothing_are_told(check: Callable[..., dict[str, Finding]], model: Bagel) -> None:
    def unseeded(prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
        return model.generate(prompts, [int(torch.randint(2**31, ())) for _ in seeds])

    def by_place(prompts: Sequence[str], seeds: Sequence[int]) -> list[Sample]:
        return model.generate(prompts, [seed + place for place, seed in enumerate(seeds)])

    for broken in (unseeded, by_place):
        found = check(generation.check, generate=broken)[generation.SEEDS]
        assert found.verdict == "wrong"
        assert "torch.Generator per image" in found.text
    deaf = check(generation.check, generate=lambda prompts, seeds: model.generate(prompts, [7] * len(seeds)))
    assert "Two seeds give the same image" in deaf[generation.SEEDS].text


def test_words_that_do_nothing_are_told(check: Callable[..., dict[str, Finding]], model: Bagel) -> None:
    found = check(generation.check, generate=lambda prompts, seeds: model.generate(["x"] * len(prompts), seeds))
    assert "does generate use its prompts?" in found[generation.WORDS].text
    found = check(generation.check, condition=lambda texts: model.condition([None] * len(texts)))
    assert "does the denoiser use its condition?" in found[generation.WORDS].text


def test_a_denoiser_that_sees_neighbours_is_told(check: Callable[..., dict[str, Finding]], model: Bagel) -> None:
    class Leaking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model.denoiser

        def forward(self, noisy: Sequence[Tensor], time: Tensor, condition: Any) -> list[Tensor]:
            said = self.inner(noisy, time, condition)
            return [v + 0.1 * sum(other[0, 0] for other in said) for v in said]

    found = check(generation.check, denoiser=Leaking())
    assert wrong(found) == {generation.NEIGHBOURS}


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_the_bundled_models_answers_are_read(check: Callable[..., dict[str, Finding]]) -> None:
    assert {finding.verdict for finding in check(answering.check).values()} == {"fine"}


def test_answers_that_are_empty_or_unreadable_are_told(check: Callable[..., dict[str, Finding]]) -> None:
    empty = check(answering.check, answer=lambda questions: [""] * len(questions))
    assert wrong(empty) == {answering.ANSWERS, answering.JUDGES}
    assert "gets an empty answer" in empty[answering.ANSWERS].text
    chatty = check(answering.check, answer=lambda questions: ["I like it."] * len(questions))
    assert wrong(chatty) == {answering.JUDGES}
    assert '0 of 2 answers can be read by local-regions; an unreadable one was "I like it."' in (
        chatty[answering.JUDGES].text
    )


def test_with_another_answerer_unreadable_answers_need_not_matter(run: Run, subject: Subject) -> None:
    settings = config.load_settings("bagel", ["shapes"], None, ["answerer=scripted"], run.registry)
    silent: Any = Broken(subject.model, answer=lambda questions: ["I like it."] * len(questions))
    other = Subject(Run(run.folder, settings, run.registry), silent, subject.candidates, subject.texts, True)
    assert {finding.verdict for finding in answering.check(other) if finding.check == answering.JUDGES} == {"undecided"}


# ---- everything ------------------------------------------------------------------------------------------------------


def message(run: Run, model: Any, tmp_path: Path) -> tuple[dict[str, Finding], Any]:
    received: list[Finding] = []
    found = examine(run, model, tmp_path, None, received.append)
    assert received == found.findings
    return {finding.check: finding for finding in found.findings}, found


@pytest.mark.slow
def test_every_operation_is_measured_and_a_round_estimated(run: Run, model: Bagel, tmp_path: Path) -> None:
    copy = Broken(model, denoiser=deepcopy(model.denoiser))  # training prepares it
    found, everything = message(run, copy, tmp_path)
    assert not wrong(found)
    assert [each.operation for each in everything.costs] == ["generate", "encode", "answer", "denoiser", cost.TRAINING]
    assert all(each.seconds > 0 and each.memory >= 0 for each in everything.costs)
    assert "A round of these settings (1024 images, 2 questions each, 9600 trained on)" in everything.estimate
    assert "evaluate" in everything.estimate


def test_what_is_quick_is_measured_with_as_much_at_once_as_a_run_would() -> None:
    asked: list[int] = []
    quick = cost.take("look", 32, torch.device("cpu"), asked.append)
    assert (quick.count, asked) == (32, [cost.FEW, 32])
    asked.clear()
    slow = cost.take("look", 32, torch.device("cpu"), lambda n: asked.append(n) or time.sleep(cost.BRIEF))
    assert (slow.count, asked) == (cost.FEW, [cost.FEW])


def test_a_fixed_number_of_steps_is_what_is_counted(run: Run, subject: Subject) -> None:
    overrides = ["train.steps=10", "train.accumulation=2", "train.max_cells=64", "benchmark=", "prompts=shapes:train:4"]
    settings = config.load_settings("bagel", ["shapes"], None, overrides, run.registry)
    other = Subject(Run(run.folder, settings, run.registry), subject.model, subject.candidates, subject.texts)
    one_second = [Cost(name, 1, 1.0, 0.0) for name in ("generate", "encode", "answer", "denoiser", cost.TRAINING)]
    message = cost.estimate(other, one_second)  # images have 16 cells: 4 in a micro-batch, 80 in all
    assert "(8 images, 2 questions each, 80 trained on) would take about 1:52" in message
    assert "generate 0:08, judge 0:16, train 1:28." in message


def test_questions_of_further_turns_are_counted_or_said_to_be_missing(run: Run, subject: Subject) -> None:
    overrides = ["judges=['self-play']", "prompts=shapes:train:4", "train.steps=1", "benchmark="]
    settings = config.load_settings("bagel", ["shapes"], None, overrides, run.registry)
    one_second = [Cost(name, 1, 1.0, 0.0) for name in ("generate", "encode", "answer", "denoiser", cost.TRAINING)]

    def estimated(first: str) -> tuple[str, list[str]]:
        asked: list[str] = []

        def answer(questions: Sequence[Question]) -> list[str]:
            asked.extend(question.text for question in questions)
            return [first if "Write questions" in question.text else "Verdict: yes" for question in questions]

        model: Any = Broken(subject.model, answer=answer)
        other = Subject(Run(run.folder, settings, run.registry), model, subject.candidates, subject.texts, True)
        answering.check(other)
        before = list(asked)
        message = cost.estimate(other, one_second)
        assert asked == before, "an estimate asks nothing"
        return message, before[1:]  # the first is the doctor's own

    message, asked = estimated("Is there a cat?\nIs there a dog?\nIs the sky blue?")
    assert len(asked) == 8, "for each of two images one question, and the three that follow"
    assert "8 images, 4 questions each" in message
    assert "judge 0:32" in message
    assert "asking again are not counted. Further turns are: as on two images (self-play)." in message
    message, asked = estimated("I like it.")
    assert len(asked) == 2
    assert "8 images, 1 question each" in message
    assert "Finding regions, asking again and further turns of self-play are not counted." in message


def test_a_parameter_without_gradient_is_told(run: Run, model: Bagel, subject: Subject) -> None:
    broken: Any = Broken(model, denoiser=deepcopy(model.denoiser))
    broken.denoiser.latent_pos_embed.register_parameter("unused", nn.Parameter(torch.zeros(2)))
    broken.recipe = model.recipe.__class__(model.recipe.blocks, (*model.recipe.full, ".*unused"), model.recipe.lora)
    _, findings = cost.measure(Subject(run, broken, subject.candidates, subject.texts, True))
    assert findings[0].verdict == "wrong"
    assert "latent_pos_embed.unused" in findings[0].text


def test_a_check_that_breaks_down_is_a_finding_and_the_others_go_on(
    run: Run, model: Bagel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(questions: Sequence[Question]) -> list[str]:
        raise KeyError("image_token")

    found, _ = message(run, Broken(model, answer=fails, denoiser=deepcopy(model.denoiser)), tmp_path)
    assert wrong(found) == {"answers", "speed"}
    assert "KeyError: 'image_token'" in found["answers"].text
    assert "in fails" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("instead", "sentence"),
    [
        ({"encode": lambda images: []}, "encoded 4 images as 0"),
        ({"encode": lambda images: [torch.zeros(16, 64)] * len(images)}, "it should be (rows, columns, channels)"),
        ({"denoiser": Wrapped(nn.Linear(1, 1), None, None)}, "TypeError"),  # type: ignore[arg-type]
    ],
)
def test_results_of_the_wrong_form_are_told(
    run: Run, model: Bagel, tmp_path: Path, instead: dict[str, Any], sentence: str
) -> None:
    instead = {"denoiser": deepcopy(model.denoiser), **instead}
    found, _ = message(run, Broken(model, **instead), tmp_path)
    assert sentence in " ".join(finding.text for finding in found.values() if finding.verdict == "wrong")


def test_images_may_be_given(run: Run, model: Bagel, subject: Subject, tmp_path: Path) -> None:
    for name, image in zip(("a-red-circle.png", "IMG_12.png"), subject.images, strict=False):
        image.save(tmp_path / name)
    given = with_given_images(run, model, tmp_path)
    assert given.texts == [None, "a red circle"]
    assert {finding.verdict for finding in flow_convention.check(given)} == {"fine"}
    with pytest.raises(ConfigError, match="there is no image"):
        with_given_images(run, model, HERE / "golden")


@pytest.mark.parametrize(
    ("name", "text"),
    [("a_red_cup.png", "a red cup"), ("a red-cup.jpg", "a red cup"), ("DSC_0001.png", None), ("cup.png", None)],
)
def test_a_prompt_may_be_a_files_name(name: str, text: str | None) -> None:
    assert text_in_name(Path(name)) == text


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_bundled_model_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--adapter", "bagel", "--preset", "shapes", *QUICK]) == 0
    said = capsys.readouterr().out
    assert "The velocity explains 9" in said
    assert "wrong" not in said
    assert "undecided" not in said


@pytest.mark.slow
def test_random_weights_are_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--adapter", "bagel", "--preset", "shapes", *GOLDEN, *QUICK[1:]]) == 0
    assert "undecided" in capsys.readouterr().out


def negated() -> Any:
    """An adapter to name on the command line."""
    sides = (32, 32)
    options = Options(
        "bundled:shapes", dtype="float32", experts="generation", size=sides, sampling=Sampling(steps=8),
        generation_sides=sides, vision_sides=sides,
    )  # fmt: skip
    model = Bagel(options)
    return Broken(model, denoiser=Wrapped(model.denoiser, lambda v, x, t: -v, lambda t: t))


@pytest.mark.slow
def test_something_wrong_is_the_exit_status_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(
        'prompts = "shapes:train:4"\njudges = [{use = "global-layout", template = "short-layout", think = false}]\n'
        "[train]\nmethod = 'full'\nmixed_precision = 'no'\n"
    )
    settings = ["--config", str(tmp_path / "settings.toml"), "generate.batch=2"]
    assert main(["doctor", "--adapter", "test_doctor:negated", *settings]) == 1
    said = capsys.readouterr().out
    assert "wrong, sign and time: The velocity points from the noise to the image" in said


def test_settings_that_cannot_be_used_are_told_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--adapter", "bagle"]) == 2
    assert 'Did you mean "bagel"?' in capsys.readouterr().err
    unmade = ["--adapter", "bagel", "--checkpoint", "nowhere", 'judges=[{use="global-layout", template="nowhere.txt"}]']
    assert main(["doctor", *unmade]) == 2
    assert "nowhere.txt" in capsys.readouterr().err
