"""The tables of docs/models.md: tests check their rows against the page, or write them there.

A table stands between `<!-- name -->` and `<!-- end of name -->`; its first column names the row. With
`INTAGLIO_UPDATE_DOCS=1` in the environment rows are written instead of compared.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
UPDATE = "INTAGLIO_UPDATE_DOCS"
ADVICE = f"run this test with {UPDATE}=1 and look at what changes in docs/models.md"


@dataclass(frozen=True)
class Band:
    """Where a figure must lie; `shown` on the page as a power of ten, or with two digits."""

    low: float
    high: float
    power: bool = False

    def check(self, value: float, what: str) -> None:
        """Assert that `value` lies in the band."""
        assert self.low <= value <= self.high, f"{what}: {value:.3g} is outside {self.low} … {self.high}"

    def show(self, value: float) -> str:
        """The figure as the page has it; powers of ten are rounded up."""
        if not self.power:
            return f"{value:.2g}"
        return (
            "0" if value == 0 else next(f"1e-{power}" for power in range(9, -9, -1) if value <= 10.0**-power)
        )


@dataclass(frozen=True)
class Table:
    """One table of the page: its name, the rows it must have, in order, and bands for columns of figures."""

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    bands: Mapping[str, Band]
    page: Path = PAGE

    def check(self, row: str, cells: Mapping[str, str | float]) -> None:
        """Compare a row that was measured with the page's: figures by their bands, the rest exactly."""
        assert tuple(cells) == self.columns[1:]
        for column, band in self.bands.items():
            band.check(float(cells[column]), f"{row}, {column}")
        if os.environ.get(UPDATE) == "1":
            self._write(row, [self._shown(column, value) for column, value in cells.items()])
            return
        stored = self.stored()
        assert row in stored, f"{row} is missing in table {self.name}: {ADVICE}"
        for (column, value), text in zip(cells.items(), stored[row], strict=True):
            if column in self.bands:
                self.bands[column].check(float(text), f"{row}, {column}, on the page")
            else:
                assert text == self._shown(column, value), f"{row}, {column}: {ADVICE}"

    def check_structure(self) -> None:
        """The page's table has these columns and rows, in this order, and no others."""
        header, rule, *_ = self._lines()
        assert header == _line(self.columns), ADVICE
        assert set(rule) == {"|", "-"}
        assert tuple(self.stored()) == self.rows, ADVICE

    def stored(self) -> dict[str, list[str]]:
        """Cells of the page's rows by name."""
        rows = [_cells(line) for line in self._lines()[2:]]
        return {row[0]: row[1:] for row in rows}

    def _shown(self, column: str, value: str | float) -> str:
        return self.bands[column].show(float(value)) if column in self.bands else str(value)

    def _lines(self) -> list[str]:
        _, table, _ = self._parts()
        return table.strip().splitlines()

    def _write(self, row: str, cells: Sequence[str]) -> None:
        before, _, after = self._parts()
        stored = {**self.stored(), row: list(cells)}
        lines = [_line((name, *stored[name])) for name in self.rows if name in stored]
        table = "\n".join([_line(self.columns), "|" + "---|" * len(self.columns), *lines])
        self.page.write_text(f"{before}\n{table}\n{after}", encoding="utf-8")

    def _parts(self) -> tuple[str, str, str]:
        text, start, end = self.page.read_text(encoding="utf-8"), f"<!-- {self.name} -->", self._end
        assert start in text, f"docs/models.md has no {start}"
        before, _, rest = text.partition(start)
        table, _, after = rest.partition(end)
        return before + start, table, end + after

    @property
    def _end(self) -> str:
        return f"<!-- end of {self.name} -->"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
