"""Text of others is shown, and obeyed by neither Markdown nor a terminal."""

import pytest

from dmf.markup import plain, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("[click](javascript:alert(1))", r"\[click\](javascript:alert(1))"),
        ("a | b", r"a \| b"),
        ("a\n# Title", "a # Title"),
        ("`code`", r"\`code\`"),
        ("CC0 or CC BY 4.0, cb_dice & co", "CC0 or CC BY 4.0, cb_dice &amp; co"),
    ],
)
def test_markdown_shows_text_of_others_as_it_is(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_terminal_is_told_nothing() -> None:
    assert printable("evil\x1b]0;OWNED\x07\u202e.png\tü\nnext") == (
        "evil\\x1b]0;OWNED\\x07\\u202e.png\tü\nnext"
    )
