"""The report in a real headless Chromium (Debian's packages chromium and chromium-driver).

Skipped where they are not installed, unless SRUM_NEED_BROWSER=1.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from reporting import ODD, make_ablation, make_run, score

from srum_core.report.comparison import gather_comparison
from srum_core.report.page import write, write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
NEEDED = os.environ.get("SRUM_NEED_BROWSER") == "1"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER) and not NEEDED,
        reason="there is no chromium with chromedriver here: apt-get install chromium chromium-driver",
    ),
]
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1280,900"),
)
MANY = 1000


class Browser:
    """A page in Chromium."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM, "SRUM_NEED_BROWSER=1, but there is no chromium: apt-get install chromium"
        assert DRIVER, "SRUM_NEED_BROWSER=1, but there is no chromedriver: apt-get install chromium-driver"
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))

    def open(self, path: Path) -> None:
        """Go to the page from an empty one; what was logged before is forgotten."""
        self.driver.get("about:blank")
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(path.as_uri())
        self.until(lambda: self.js("return document.readyState === 'complete'"))

    def js(self, code: str, *arguments: object) -> Any:
        return self.driver.execute_script(code, *arguments)

    def until(self, true: Callable[[], Any], what: str = "") -> Any:
        """What `true` returns, once it is true; pages lay themselves out a frame later."""
        for _ in range(600):
            if found := true():
                return found
            time.sleep(0.05)
        raise AssertionError(f"it never came to be: {what}")

    def cards(self, section: str = "candidates") -> list[str]:
        """The prompts' last words on the cards that are there, from the first row on."""
        code = "return [...document.querySelectorAll(`#${arguments[0]} .card .prompt`)].map((each) => each.textContent)"
        return [text.split()[-1] for text in self.js(code, section)]

    def choose(self, section: str, name: str, value: str) -> None:
        """Set a control as a person does, then look at the first rows."""
        self.js(
            """const control = document.querySelector(`#${arguments[0]} [data-for=${arguments[1]}]`);
            control.value = arguments[2]; control.dispatchEvent(new Event("input", {bubbles: true}));
            document.getElementById(arguments[0]).scrollIntoView({behavior: "instant"});""",
            *(section, name, value),
        )
        self.settle()

    def settle(self) -> None:
        """Two frames, and a moment for intersections to be told."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 100)))"
        )

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Everything that was asked for since `open`, but what is inside the page, and what Chromium asks itself for.

        Chromium loads its own start page in the background when it likes (documents chrome://…), and logs that too.
        """
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        asked = [each["request"]["url"] for each in sent if not each["documentURL"].startswith("chrome")]
        return [url for url in asked if not url.startswith("data:")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's page, with an ablation."""
    run = make_run(tmp_path_factory.mktemp("small") / "run", count=7, rounds=2)
    make_ablation(run.folder)
    return write_report(run.folder)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_run(tmp_path_factory.mktemp("large") / "run", count=MANY).folder)


@pytest.fixture
def page(browser: Browser, report: Path) -> Browser:
    browser.open(report)
    browser.js("document.getElementById('candidates').scrollIntoView({behavior: 'instant'})")
    browser.until(lambda: len(browser.cards()) == 14, "all cards of the small run")
    return browser


def test_it_asks_for_nothing_and_complains_of_nothing(page: Browser, report: Path) -> None:
    page.js("document.querySelector('#candidates .look').click()")
    page.js("document.querySelector('#closer .close').click()")
    assert page.requests() == [report.as_uri()]
    assert page.complaints() == []


def test_what_a_page_asks_for_is_seen_and_what_chromium_asks_itself_for_is_not(
    browser: Browser, tmp_path: Path
) -> None:
    path, asked = tmp_path / "page.html", ["http://127.0.0.1:9/far.png", (tmp_path / "near.css").as_uri()]
    path.write_text(
        f'<link rel=stylesheet href="{asked[1]}"><img src="{asked[0]}"><img src="data:image/gif;base64,R0">'
    )
    browser.open(path)
    home = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    browser.driver.get("chrome://version")
    browser.driver.close()
    browser.driver.switch_to.window(home)
    assert sorted(browser.requests()) == sorted([*asked, path.as_uri()])


def test_words_in_records_are_shown_and_never_run(page: Browser) -> None:
    page.js("document.querySelector('#candidates .look').click()")
    assert page.js("return document.getElementById('closer-title').textContent") == f"{ODD} picture 0"
    said = page.js("return document.querySelector('#closer pre').textContent.toWellFormed()")
    assert said.startswith(f"{ODD} and ")
    for words in ("whole", "left"):
        assert f"{ODD} {words}" in page.js("return document.getElementById('closer').textContent.toWellFormed()")
    assert page.js("return document.querySelector('#pairs .prompt').textContent") == f"{ODD} number 0"
    assert page.js("return document.querySelector('#ablation h2').textContent") == f"{ODD} ablation"
    assert page.js("return document.querySelectorAll('script').length") == 2
    assert page.js("return document.querySelectorAll('img[src=x]').length") == 0
    assert page.js("return typeof hacked") == "undefined"


def test_the_heat_map_is_generated_over_the_image_when_it_is_switched_on(page: Browser) -> None:
    assert page.js("return document.querySelectorAll('#candidates canvas').length") == 0
    page.js("document.querySelector('#candidates [data-for=map]').click()")
    page.settle()
    canvases = page.js("return document.querySelectorAll('#candidates canvas').length")
    assert canvases == 10  # of 14: two of each round have no map
    # Candidate 0: R is 1 on the left and -0.5 in the middle of the right half, alpha is 1.
    colour = """const canvas = document.querySelector('#candidates canvas'), pen = canvas.getContext('2d');
        const at = (x, y) => [...pen.getImageData(x * canvas.width, y * canvas.height, 1, 1).data];
        const around = (x, y) => [0, .01, .02, .03, .04].map((d) => at(x + d, y).slice(0, 3).join());
        return [at(.05, .05), at(.95, .05), at(.8, .45), new Set(around(.8, .45)).size, canvas.ariaLabel]"""
    left, corner, right, kinds, label = page.js(colour)
    assert left[2] > left[0]
    assert left[3] > 150  # blue and strong
    assert corner[3] == 0  # no weight, no colour
    assert right[0] > right[2]  # orange
    assert kinds > 1  # and hatched
    assert label == "Reward map, 4 by 4 cells: mean 0.38, from \u22120.50 to 1.00, 4 negative"
    page.js("document.querySelector('#candidates [data-for=map]').click()")
    page.settle()
    assert page.js("return document.querySelectorAll('#candidates canvas').length") == 0


def test_boxes_lie_where_the_regions_are_and_say_their_scores(page: Browser) -> None:
    boxes = """const view = document.querySelector('#candidates .view').getBoundingClientRect();
        return [...document.querySelectorAll('#candidates .card:first-child .over-line')].slice(0, 2).map((each) => {
        const box = each.getBoundingClientRect(), across = (x) => (x - view.left) / view.width;
        const down = (y) => (y - view.top) / view.height, negative = each.classList.contains('negative');
        return [across(box.left), down(box.top), across(box.right), down(box.bottom), negative]})"""
    first, second = page.js(boxes)
    assert first == pytest.approx([0, 0, 0.5, 1, False], abs=0.02)
    assert second == pytest.approx([0.5, 0.25, 1, 0.75, True], abs=0.02)
    assert page.js("return document.querySelector('#candidates .tag.low').textContent") == "2 \u22120.50"
    page.js("document.querySelector('#candidates [data-for=boxes]').click()")
    page.settle()
    assert page.js("return document.querySelectorAll('#candidates .over-line').length") == 0


def test_candidates_are_sorted_and_filtered(page: Browser) -> None:
    page.choose("candidates", "sort", "best")
    assert page.cards()[:2] == ["0", "0"]  # of both rounds
    page.choose("candidates", "sort", "global")
    assert page.cards()[:4] == ["6", "6", "5", "5"]
    page.choose("candidates", "round", "1")
    assert page.cards() == ["6", "5", "4", "3", "2", "1", "0"]
    page.choose("candidates", "text", "NEEDLE")
    assert page.cards() == ["4"]
    page.choose("candidates", "text", "")
    page.choose("candidates", "show", "failed")
    assert page.cards() == ["1"]
    assert page.js("return document.querySelector('#candidates output').textContent") == "1 of 14"


def test_pairs_show_the_same_prompt_twice_with_right_and_wrong(page: Browser) -> None:
    page.choose("pairs", "sort", "drawn")
    assert page.cards("pairs") == ["0", "1", "2", "3"]
    alts = page.js("return [...document.querySelectorAll('#pairs img')].map((each) => each.alt)")
    assert alts == [f"{ODD} number {index}, {name}" for index in range(4) for name in ("base", "round 2")]
    verdicts = page.js("return [...document.querySelectorAll('#pairs .verdict b')].map((each) => each.textContent)")
    right, wrong = "✓ right", "✗ wrong"
    assert verdicts == [wrong, wrong, right, wrong, wrong, right, right, right]
    page.choose("pairs", "show", "down")
    assert page.cards("pairs") == ["1"]
    page.choose("pairs", "show", "all")
    page.choose("pairs", "sort", "better")
    assert page.cards("pairs") == ["2", "0", "3", "1"]
    page.choose("pairs", "sort", "changed")
    assert page.cards("pairs") == ["2", "1", "3", "0"]


def test_of_many_candidates_only_those_in_view_are_in_the_page(browser: Browser, large: Path) -> None:
    browser.open(large)
    browser.until(lambda: browser.js("return document.querySelectorAll('#candidates .row').length") >= MANY / 8)
    seen: set[str] = set()
    for share in (0, 0.25, 0.5, 0.75, 1):
        browser.js(
            "const at = document.getElementById('candidates').getBoundingClientRect();"
            "window.scrollTo({top: at.top + scrollY + (at.height - innerHeight) * arguments[0], behavior: 'instant'})",
            share,
        )
        browser.until(lambda before=frozenset(seen): set(browser.cards()) - before, "other cards after scrolling")
        browser.settle()
        there = browser.cards()
        assert 4 <= len(there) <= 80
        seen |= set(there)
    assert "0" in seen
    assert str(MANY - 1) in seen
    assert browser.js("return document.querySelector('#candidates output').textContent") == f"{MANY} of {MANY}"
    assert browser.js("return document.querySelectorAll('*').length") < 4000


def test_an_image_is_looked_at_with_the_keyboard_alone(page: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    active = "return document.activeElement.getAttribute('aria-label') || document.activeElement.className"
    page.js("document.querySelector('#candidates .look').focus({focusVisible: true})")
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    page.until(lambda: page.js("return document.getElementById('closer').open"), "the dialog")
    page.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    page.until(lambda: not page.js("return document.getElementById('closer').open"), "the dialog closes")
    page.until(lambda: page.js(active) == f"Look closer: {ODD} picture 0", "the focus returns")
    page.driver.switch_to.active_element.send_keys(Keys.TAB)
    assert page.js(active) == f"Look closer: {ODD} picture 1"


CONTRAST = """
const channels = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const share = [0.2126, 0.7152, 0.0722];
const light = (colour) => channels(colour).map((v, i) => share[i] * linear(v / 255)).reduce((sum, v) => sum + v, 0);
const paper = light(getComputedStyle(document.body).backgroundColor);
const ratio = (ink) => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
const chosen = ["h1", "h2", ".lead", ".stage p", ".failure", ".facts dt", "td", "small", "figcaption", ".tools",
  ".prompt", ".card .line", ".verdict b", ".right b", ".wrong b", "summary", "nav a"];
const measured = (node) => node && ratio(light(getComputedStyle(node).color));
return chosen.map((each) => [each, measured(document.querySelector(each))]);
"""


def test_light_and_dark_differ_and_both_can_be_read(page: Browser) -> None:
    papers = {}
    for theme in ("light", "dark"):
        page.js("document.querySelector(`#theme input[value=${arguments[0]}]`).click()", theme)
        papers[theme] = page.js("return getComputedStyle(document.body).backgroundColor")
        found = dict(page.js(CONTRAST))
        assert not [name for name, ratio in found.items() if ratio is None]
        assert not {name: ratio for name, ratio in found.items() if ratio < 4.5}, theme
    assert papers["light"] != papers["dark"]
    page.js("document.querySelector('#theme input[value=\"light dark\"]').click()")
    for theme in ("light", "dark"):
        asked = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", asked)
        assert page.js("return getComputedStyle(document.body).backgroundColor") == papers[theme]


HEADING = """const top = document.querySelector(`#${arguments[0]} h2`).getBoundingClientRect().top;
return top - document.querySelector("nav").getBoundingClientRect().bottom"""


@pytest.fixture
def sized(browser: Browser) -> Iterator[Callable[[int, int], None]]:
    """Set the width and height of the page."""
    command = "Emulation.setDeviceMetricsOverride"

    def size(width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.driver.execute_cdp_cmd(command, metrics)

    yield size
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [1280, 390])
def test_an_anchor_leads_to_its_section_at_once(
    width: int, browser: Browser, large: Path, sized: Callable[[int, int], None]
) -> None:
    sized(width, 800)
    for name in ("candidates", "training", "pairs"):
        browser.driver.get("about:blank")
        browser.driver.get(f"{large.as_uri()}#{name}")
        browser.settle()
        assert 0 <= browser.js(HEADING, name) <= 60, name
    browser.js("document.querySelector('nav a[href=\"#candidates\"]').click()")
    browser.settle()
    assert 0 <= browser.js(HEADING, "candidates") <= 60
    sized(width - 90, 800)  # other columns, other rows
    browser.settle()
    assert 0 <= browser.js(HEADING, "candidates") <= 100


def test_a_narrow_page_shows_every_column(browser: Browser, report: Path, sized: Callable[[int, int], None]) -> None:
    sized(390, 800)
    browser.open(report)
    cells = """return [...document.querySelectorAll("td")].map((each) => {
        const box = each.getBoundingClientRect(), inside = box.left >= 0 && box.right <= 390;
        return [each.dataset.column, inside, box.width > 0]})"""
    found = browser.js(cells)
    assert {"images", "base", "round 2", "change", "accuracy", "seconds", ODD} <= {name for name, *_ in found}
    assert [each for each in found if each[1:] != [True, True]] == []
    wide = "return [...document.querySelectorAll('main *')].filter((each) => each.getBoundingClientRect().right > 390)"
    assert browser.js(f"{wide}.map((each) => each.outerHTML.slice(0, 80))") == []


def test_an_image_says_what_is_wrong_with_it(page: Browser, sized: Callable[[int, int], None]) -> None:
    sized(390, 800)
    page.choose("pairs", "sort", "drawn")
    why = "return [...document.querySelectorAll('#pairs .why')]"
    assert page.js(f"{why}.map((each) => each.textContent)")[:2] == [f"{ODD} why e0"] * 2
    assert page.js(f"{why}.filter((each) => each.scrollWidth > each.clientWidth).length") == 0


def test_an_ablations_page_complains_of_nothing(browser: Browser, tmp_path: Path) -> None:
    make_ablation(tmp_path)
    path = write_report(tmp_path)
    browser.open(path)
    assert browser.js("return document.querySelector('#ablation img').naturalWidth") > 0
    assert browser.js("return typeof hacked") == "undefined"
    assert browser.requests() == [path.as_uri()]
    assert browser.complaints() == []


# ---- several runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: `base` is right about images 2 and 3, `one` about 0, 2 and 3, `two` about 1."""
    home, right = tmp_path_factory.mktemp("several"), {"base": (0, 0, 1, 1), "one": (1, 0, 1, 1), "two": (0, 1, 0, 0)}
    for place, (name, values) in enumerate(right.items()):
        score(make_run(home / name, 4, 1, "benchmark=reporting:Mean", f"seed={place}"), 1, *values)
    return write(home / "page.html", gather_comparison([home / name for name in right], 0)[0])


def test_several_runs_are_side_by_side_and_each_is_compared_with_the_first(browser: Browser, comparison: Path) -> None:
    browser.open(comparison)
    browser.choose("pairs", "sort", "drawn")
    alts = browser.js("return [...document.querySelectorAll('#pairs .card:first-child img')].map((each) => each.alt)")
    assert alts[:3] == [f"{ODD} number 0, {name}" for name in ("base", "one", "two")]
    boxes = browser.js(
        "return [...document.querySelectorAll('#pairs .card')][0].querySelectorAll('img').values()"
        ".map((each) => each.getBoundingClientRect()).map((each) => [each.left, each.top, each.width]).toArray()"
    )
    assert len({top for _, top, _ in boxes}) == 1  # in one row
    assert boxes[0][0] + boxes[0][2] <= boxes[1][0]
    assert boxes[1][0] + boxes[1][2] <= boxes[2][0]
    for model, show, cards in (("1", "up", ["0"]), ("1", "down", []), ("2", "up", ["1"]), ("2", "down", ["2", "3"])):
        browser.choose("pairs", "model", model)
        browser.choose("pairs", "show", show)
        assert browser.cards("pairs") == cards, (model, show)
    browser.choose("pairs", "show", "all")
    browser.choose("pairs", "sort", "worse")
    assert browser.cards("pairs") == ["2", "3", "0", "1"]
    browser.js("document.querySelector('#pairs .look').click()")
    assert browser.js("return document.querySelectorAll('#closer img').length") == 3
    assert browser.js("return document.querySelector('#closer .sub').textContent").count(",") == 2  # three seeds
    assert browser.js("return typeof hacked") == "undefined"
    assert browser.requests() == [comparison.as_uri()]
    assert browser.complaints() == []


def test_curves_of_several_runs_have_a_line_each_on_the_same_axes(browser: Browser, comparison: Path) -> None:
    browser.open(comparison)
    lines = """return [...document.querySelectorAll('#training figure')].map((each) => [
        each.querySelector('b').textContent, each.querySelectorAll('svg').length,
        [...each.querySelectorAll('path.line')].map((line) => line.classList[1])])"""
    found = {title: (charts, kinds) for title, charts, kinds in browser.js(lines)}
    assert found["Loss"] == (1, ["s0", "s1", "s2", "s0", "s1", "s2"])  # curves, then their labels
    assert browser.js("return [...document.querySelectorAll('nav a')].map((each) => each.textContent)") == [
        "Results", "Training", "Images", "Settings",
    ]  # fmt: skip
    assert "one − base" in browser.js("return document.querySelector('#results').textContent")
    assert "seed" in browser.js("return document.querySelector('#settings').textContent")


def test_a_narrow_comparison_shows_every_column(
    browser: Browser, comparison: Path, sized: Callable[[int, int], None]
) -> None:
    sized(390, 800)
    browser.open(comparison)
    browser.settle()
    wide = "return [...document.querySelectorAll('main *')].filter((each) => each.getBoundingClientRect().right > 390)"
    assert browser.js(f"{wide}.map((each) => each.outerHTML.slice(0, 80))") == []
