"""Stop strings that arrive in pieces."""

from __future__ import annotations

import random

import pytest

from intaglio.compiler.stop_strings import StopScanner


def shown(pieces: list[str], *stops: str) -> list[str]:
    """What each piece lets through, and what is left at the end."""
    scanner = StopScanner(stops)
    return [*map(scanner.push, pieces), scanner.finish()]


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["abc", "def"], (), ["abc", "def", ""]),
        (["one END two"], ("END",), ["one ", ""]),
        (["one E", "N", "D two", "three"], ("END",), ["one ", "", "", "", ""]),
        (["one E", "NOUGH"], ("END",), ["one ", "ENOUGH", ""]),
        (["one EN"], ("END",), ["one ", "EN"]),
        (["aab"], ("ab",), ["a", ""]),
        (["aaa", "b"], ("aab",), ["a", "", ""]),
        (["x\n", "\ny"], ("\n\n",), ["x", "", ""]),
        (["stop at b or a"], ("a", "b"), ["stop ", ""]),
        (["STO", "P!"], ("STOP!", "TO"), ["S", "", ""]),
    ],
)
def test_nothing_of_a_stop_string_is_shown(
    pieces: list[str], stops: tuple[str, ...], expected: list[str]
) -> None:
    assert shown(pieces, *stops) == expected


def test_the_pieces_make_no_difference() -> None:
    source = random.Random(5)
    for _ in range(300):
        text = "".join(source.choices("ab", k=12))
        stops = tuple("".join(source.choices("ab", k=source.randint(3, 6))) for _ in range(2))
        places = [place for stop in stops if (place := text.find(stop)) >= 0]
        expected = text[: min(places)] if places else text
        cuts = sorted(source.sample(range(13), 4))
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, 12], strict=True)]
        found = "".join(shown(pieces, *stops))
        # Letter by letter, the stop string that is complete first ends the text: it may begin later.
        assert found == expected or (places and found in {text[:place] for place in places})
        assert not any(stop in found for stop in stops)
