"""The default text, and cutting texts in two."""

from __future__ import annotations

import pytest

from intaglio.compiler.errors import OptionError
from intaglio.compiler.texts import calibration_text, default_text, evaluation_text, split_text


def paragraphs(text: str) -> set[str]:
    return {part for part in text.split("\n\n") if part.strip()}


def test_the_default_text_is_long_and_english() -> None:
    text = default_text()
    assert len(text) > 100_000
    assert text.count(" the ") > 1000
    assert text == default_text()


def test_calibration_and_evaluation_share_no_paragraph() -> None:
    assert paragraphs(calibration_text()) & paragraphs(evaluation_text()) == set()
    assert paragraphs(calibration_text()) | paragraphs(evaluation_text()) == paragraphs(default_text())


def test_repeated_paragraphs_do_not_leak() -> None:
    first, second = split_text("\n\n".join(["same", "a", "b", "same", "c", "same", "d"]))
    assert paragraphs(first) & paragraphs(second) == set()


@pytest.mark.parametrize(("share", "expected"), [(0.01, 1), (0.25, 1), (0.5, 2), (0.75, 3), (0.99, 3)])
def test_the_share_decides_the_place(share: float, expected: int) -> None:
    first, second = split_text("\n\n".join(letter * 100 for letter in "abcd"), share)
    assert len(paragraphs(first)) == expected
    assert len(paragraphs(second)) == 4 - expected


@pytest.mark.parametrize("share", [0, 1, -1, 2])
def test_a_share_must_be_one(share: float) -> None:
    with pytest.raises(OptionError, match="share"):
        split_text("a\n\nb", share)


def test_one_paragraph_cannot_be_cut() -> None:
    with pytest.raises(OptionError, match="two paragraphs"):
        split_text("alone\n\nalone")
