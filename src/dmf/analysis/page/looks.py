"""How the words of verdicts look, and how text becomes HTML: in one table and two functions."""

import re
from collections import Counter
from collections.abc import Iterable

from markupsafe import Markup, escape

# A word's symbol and tone, in the order of tallies. A word that is not here looks undecided.
_LOOKS = {
    "supported": ("✓", "good"),
    "above": ("✓", "good"),
    "robust": ("✓", "good"),
    "contradicted": ("✗", "bad"),
    "not reproduced at the reduced size": ("✗", "bad"),
    "below": ("✗", "bad"),
    "not above": ("✗", "bad"),
    "inconclusive": ("≈", "open"),
    "undecided": ("≈", "open"),
    "numbers only": ("·", "none"),
    "too few seeds": ("·", "none"),
    "higher": ("↑", "none"),
    "partly higher": ("↑", "none"),
    "lower": ("↓", "none"),
    "partly lower": ("↓", "none"),
    "no interval": ("?", "none"),
    "not run": ("\N{EN DASH}", "none"),
    "not testable": ("?", "none"),
}

_NO_BREAK = "\N{NO-BREAK SPACE}"

Tally = list[tuple[str, int]]


def symbol(word: str) -> str:
    """Return the sign in front of a verdict."""
    return _LOOKS.get(word, ("≈", "open"))[0]


def tone(word: str) -> str:
    """Return which colours a verdict has: good, bad, open or none."""
    return _LOOKS.get(word, ("≈", "open"))[1]


def tally(words: Iterable[str]) -> Tally:
    """Count verdicts, in the order of the table; words that are not in it come last."""
    counted: Counter[str] = Counter(words)
    known = [word for word in _LOOKS if word in counted]
    return [(word, counted[word]) for word in [*known, *(w for w in counted if w not in _LOOKS)]]


def html(text: object) -> Markup:
    """Return text with `code` as HTML; a number stays on the line of its unit."""
    kept = re.sub(r"(?<=\d) (?=%|(points?|seeds?|epochs?|px)\b)", _NO_BREAK, str(text))
    kept = re.sub(r"\b([np]) ([=<]) ", f"\\1{_NO_BREAK}\\2{_NO_BREAK}", kept)
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(kept))))


def pages(text: str) -> str:
    """Return the place of a claim with dashes between pages."""
    return re.sub(r"(?<=\d)-(?=\d)", "\N{EN DASH}", text)
