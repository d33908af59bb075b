"""The text that models are evaluated on when none is given, cut into parts that do not overlap."""

from __future__ import annotations

from pydoc_data.topics import topics
from typing import Final

from intaglio.compiler.errors import OptionError

PARAGRAPH: Final = "\n\n"


def default_text() -> str:
    """The English in Python's own `pydoc_data.topics`: each paragraph once, topics by name.

    Topics contain one another; without repeats, a text cut in two has no paragraph in both parts.
    """
    paragraphs = (part for name in sorted(topics) for part in topics[name].split(PARAGRAPH))
    return PARAGRAPH.join(dict.fromkeys(part for part in paragraphs if part.strip()))


def split_text(text: str, share: float = 0.5) -> tuple[str, str]:
    """(calibration, evaluation): the paragraphs of `text` up to `share` of its characters, and the rest.

    A paragraph is never divided, and counts once however often it occurs, so that the parts share none.
    Raises `OptionError` where a part would be empty.
    """
    if not 0 < share < 1:
        raise OptionError(f"split_text: share={share!r} is not between 0 and 1.")
    paragraphs = list(dict.fromkeys(text.split(PARAGRAPH)))
    limit, size, count = share * len(text), 0, 0
    while count < len(paragraphs) and size + len(paragraphs[count]) / 2 < limit:
        size += len(paragraphs[count]) + len(PARAGRAPH)
        count += 1
    count = min(max(count, 1), len(paragraphs) - 1)
    if count < 1:
        raise OptionError("split_text: the text has fewer than two paragraphs: give a longer one.")
    return PARAGRAPH.join(paragraphs[:count]), PARAGRAPH.join(paragraphs[count:])


def evaluation_text() -> str:
    """The part of the default text that nothing may be calibrated on."""
    return split_text(default_text())[1]


def calibration_text() -> str:
    """The other part."""
    return split_text(default_text())[0]
