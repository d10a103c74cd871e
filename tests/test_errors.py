"""What others say is shown as one safe line."""

import re
from pathlib import Path

import pytest
from rich.table import Table

from srum_core.console import say, show_table, tell
from srum_core.errors import clean, extra, hide


class Mute(Exception):
    def __str__(self):
        raise SystemExit(0)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("\x1b[31mred\x1b[0m\x07\x00\x9b1m", "[31mred [0m 1m"),
        ("a\u202eb\u2066c", "a b c"),
        (b"caf\xe9", "caf\ufffd"),
        ("x" * 500, "x" * 400 + "…"),
        (Mute(), "(Mute without a message)"),
        ("[/10] stays", "[/10] stays"),
    ],
)
def test_what_others_say_becomes_one_printable_line(text, shown):
    assert clean(text) == shown


def test_secrets_are_masked_the_longest_first():
    hide("sk-secret")
    hide("sk-secret-and-more")
    hide("")
    assert clean("a sk-secret-and-more b sk-secret") == "a (hidden) b (hidden)"


def test_no_control_character_reaches_the_terminal(capsys):
    tell("one\ntwo \x1b]0;title\x07")
    assert capsys.readouterr().err == "one\ntwo  ]0;title \n"


ODD = "one [/10] \x1b]0;title\x07 \x1b[8m :smile: sk-in-a-table"


def test_tables_and_lines_on_standard_output_are_safe_too(capsys):
    hide("sk-in-a-table")
    table = Table("name", title=ODD)
    table.add_row(ODD)
    show_table(table, wrap=False)
    say(ODD)
    out = capsys.readouterr().out
    assert "sk-in-a-table" not in out
    assert out.replace("\n", "").isprintable()
    assert out.count("[/10]") == 3
    assert out.count(":smile:") == 3


ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]), ids=lambda p: p.stem)
def test_a_page_that_says_how_to_install_an_extra_says_how_in_a_checkout(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"install ['\"]?srum\[([\w,]+)\]", text):
        assert extra(name).split("(")[0].strip() in text  # quoted in one way
        assert f'pip install -e ".[{name}]"' in text


def test_messages_about_extras_come_from_one_place():
    """`extra` says how to install one from a package index and in a checkout."""
    folders = [ROOT / name for name in ("srum_core", "adapters", "judges", "losses", "benchmarks")]
    files = [path for folder in folders for path in folder.rglob("*.py") if path.name != "errors.py"]
    assert len(files) > 100
    assert not [path.name for path in files if re.search(r"(?i)install[^\n]{0,40}srum\[", path.read_text("utf-8"))]
