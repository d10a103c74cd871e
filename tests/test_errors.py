"""What others say is shown as one safe line."""

import base64
import html
import json
import re
from itertools import product
from pathlib import Path
from urllib.parse import quote

from hang import no_hang
from rich.table import Table
from rows import each_row

from srum_core.cli.common import say, show_table
from srum_core.errors import clean, extra, hide, mask
from srum_core.runs.progress import tell


class Mute(Exception):
    def __str__(self):
        raise SystemExit(0)


@each_row(
    "text, shown",
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


KEY = 'sk-Ab+/c&d<9"x\\y012'
"""A key of which every usual escape changes something."""
FORMS = {
    "json": json.dumps(KEY)[1:-1],
    "json in json": json.dumps(json.dumps(KEY))[3:-3],
    "json of PHP": json.dumps(KEY)[1:-1].replace("/", "\\/"),
    "unicode escapes": "".join(f"\\u{ord(each):04X}" for each in KEY),
    "repr": repr(KEY.encode())[2:-1],
    "url": quote(KEY, safe=""),
    "path of a url": quote(KEY),
    "url, lower case, twice": quote(quote(KEY, safe="")).replace("%2525", "%25").replace("2B", "2b"),
    "html": html.escape(KEY),
    "html, numbers": "".join(f"&#x{ord(each):x};" for each in KEY),
    "wide characters": KEY.encode("utf-16-le").decode("latin1"),
    "zero width": f"{KEY[:5]}\u200b{KEY[5:]}",
}


@each_row("form", FORMS)
def test_a_key_is_hidden_in_every_form_that_programs_give_it(form):
    hide(KEY)
    assert clean(f"Authorization: {FORMS[form]}.") in ("Authorization: (hidden).", "Authorization: (hidden) .")


@each_row("encode, before", product([base64.b64encode, base64.urlsafe_b64encode], ["", "u:", "me:", "Bearer "]))
def test_a_key_is_hidden_in_base64_also_behind_other_words(encode, before):
    hide(KEY)
    shown = clean(encode(f"{before}{KEY}, and so on".encode()))
    assert KEY[2:6] not in base64.b64decode(shown.partition("(hidden)")[0] + "==").decode()
    assert "(hidden)" in shown


def test_words_that_stand_for_no_key_are_no_secrets():
    hide("EMPTY")
    assert clean("an EMPTY room") == "an EMPTY room"


def test_secrets_are_found_in_linear_time():
    hide(KEY)
    for piece in ("\\", "%25", "&amp;", "sk-Ab", "s\0", "\\u0"):
        with no_hang():
            mask((piece * 200_000)[:200_000])


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


@each_row("page", sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]))
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
