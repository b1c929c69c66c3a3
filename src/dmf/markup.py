"""Text of others in Markdown and on terminals: shown as it is, never obeyed."""

import html


def plain(text: object) -> str:
    """Return ``text`` so that Markdown shows it: no HTML, link, code, column or line of its own."""
    escaped = html.escape(printable(str(text).replace("\n", " ")), quote=False)
    for character in "\\`|[]":
        escaped = escaped.replace(character, f"\\{character}")
    return escaped


def printable(text: str) -> str:
    """Return ``text`` with control characters spelt out, which a terminal would obey.

    Among them are those that turn the direction of writing. Lines and tabs stay.
    """
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )
