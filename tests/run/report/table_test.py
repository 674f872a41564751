"""Tables keep their shape whatever their cells hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.run.report import table
from jaxmini.run.report.table import Column, Table

COLUMNS = (Column("name"), Column("size", is_quantity=True))
rows = st.lists(st.tuples(st.text(max_size=12), st.text(max_size=6)), max_size=4).map(tuple)


def test_plain_text_is_aligned() -> None:
    found = table.text(Table(COLUMNS, ((("a", "1"), ("bcd", "234")), (("数字", "5"),))))
    assert found.split("\n") == [
        "name  size",
        "──────────",
        "a        1",
        "bcd    234",
        "──────────",
        "数字     5",
    ]


@given(rows)
def test_every_line_of_a_terminal_is_as_wide_as_the_rule(cells: tuple) -> None:
    lines = table.text(Table(COLUMNS, (cells,))).split("\n")
    rule = next(line for line in lines if set(line) == {"─"})
    assert len(lines) == 2 + len(cells)
    assert all(table.width(line) <= len(rule) for line in lines)


@given(rows)
def test_markdown_has_as_many_cells_in_every_line(cells: tuple) -> None:
    lines = table.markdown(Table(COLUMNS, (cells,))).split("\n")
    assert len(lines) == 2 + len(cells)
    assert all(line.replace(r"\\", "").replace(r"\|", "").count("|") == 3 for line in lines)


def test_markdown() -> None:
    found = table.markdown(Table(COLUMNS, ((("a|b <i>", "*1*"),),)))
    assert found == "| name | size |\n| --- | ---: |\n| a\\|b &lt;i> | \\*1\\* |".replace(
        ">", "\\>"
    )


def test_a_name_does_not_steer_the_terminal() -> None:
    assert table.visible("a\x1b[2Jb\nc‮d") == r"a\x1b[2Jb\nc\u202ed"


def test_columns_without_entries_are_left_out() -> None:
    found = table.without_empty(Table(COLUMNS, ((("a", "–"),), ())))
    assert found == Table(COLUMNS[:1], ((("a",),),))


def test_a_row_has_a_cell_a_column() -> None:
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table(COLUMNS, ((("a",),),))
