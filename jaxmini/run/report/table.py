"""Table: columns and groups of rows of text, set as aligned plain text or as Markdown."""

import dataclasses
import re
import unicodedata

from jaxmini.run.report.quantity import MISSING

Row = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column's heading, and whether it holds quantities (set to the right)."""

    name: str
    is_quantity: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns, and groups of rows with a cell a column.

    Raises:
        ValueError: a row has not as many cells as there are columns.
    """

    columns: tuple[Column, ...]
    groups: tuple[tuple[Row, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{len(row)} cells for {len(self.columns)} columns: {row}")

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all groups."""
        return tuple(row for group in self.groups for row in group)


def without_empty(table: Table) -> Table:
    """The table without groups that have no row and columns that have no entry."""
    kept = [i for i in range(len(table.columns)) if any(r[i] != MISSING for r in table.rows)]
    groups = [tuple(tuple(r[i] for i in kept) for r in group) for group in table.groups if group]
    return Table(tuple(table.columns[i] for i in kept), tuple(groups))


def text(table: Table) -> str:
    """Aligned plain text for a terminal; a rule under the heading and between groups."""
    head = tuple(column.name for column in table.columns)
    groups = [[tuple(map(visible, row)) for row in group] for group in table.groups]
    rows = [head, *(row for group in groups for row in group)]
    widths = [max(width(row[i]) for row in rows) for i in range(len(head))]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [_line(table, head, widths)]
    for group in groups:
        lines += [rule, *(_line(table, row, widths) for row in group)]
    return "\n".join(lines)


def markdown(table: Table) -> str:
    """A Markdown (GFM) table; cells are escaped."""
    marks = ["---:" if column.is_quantity else "---" for column in table.columns]
    rows = [[escape(column.name) for column in table.columns], marks]
    rows += [[escape(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def escape(cell: str) -> str:
    """Text that Markdown shows as it is: on one line, and no sign of it means anything."""
    plain = visible(cell).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|~#>$!])", r"\\\1", plain)


def visible(cell: str) -> str:
    """Text without control characters: a name must not move the cursor of a terminal."""
    return "".join(_shown(sign) for sign in cell)


def width(cell: str) -> int:
    """Columns of a terminal that the text takes."""
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in cell)
    return len(cell) + wide - sum(unicodedata.combining(sign) > 0 for sign in cell)


def _shown(sign: str) -> str:
    # Cc: control, Cf: formatting such as right-to-left override, Zl and Zp: line ends.
    hidden = unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return sign.encode("unicode_escape").decode("ascii") if hidden else sign


def _line(table: Table, row: Row, widths: list[int]) -> str:
    cells = []
    for column, cell, room in zip(table.columns, row, widths, strict=True):
        pad = " " * (room - width(cell))
        cells.append(pad + cell if column.is_quantity else cell + pad)
    return "  ".join(cells).rstrip()
