"""The drawn chain: sources above what was made of them, and no line through a stranger."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.run.report import provenance
from jaxmini.run.report.content import Link, Report


@st.composite
def chains(draw: st.DrawFn) -> list[Link]:
    links = []
    for index in range(draw(st.integers(1, 9))):
        sources = draw(st.sets(st.sampled_from(range(index)), max_size=3)) if index else set()
        links.append(Link(f"n{index}", "00", tuple(f"n{source}" for source in sorted(sources))))
    return draw(st.permutations(links))


@given(chains())
def test_sources_come_first(links: list[Link]) -> None:
    nodes = provenance.layout(links)
    assert {node.link for node in nodes} == set(links)
    for row, node in enumerate(nodes):
        assert all(source < row for source in node.sources)
        assert {nodes[s].link.name for s in node.sources} == set(node.link.made_from)


@given(chains())
def test_no_line_passes_through_a_link_it_does_not_belong_to(links: list[Link]) -> None:
    nodes = provenance.layout(links)
    for row, node in enumerate(nodes):
        for source in node.sources:
            between = nodes[source + 1 : row]
            assert all(other.lane != nodes[source].lane for other in between)


def test_the_order_given_is_kept_where_it_can_be(sample: Report) -> None:
    nodes = provenance.layout(sample.provenance)
    assert tuple(node.link for node in nodes) == sample.provenance


def test_lines_begin_and_end_in_the_middle_of_their_links() -> None:
    nodes = provenance.layout([Link("a", "0"), Link("b", "1", ("a",)), Link("c", "2", ("a",))])
    assert [node.lane for node in nodes] == [0, 1, 0]
    bend, straight = provenance.paths(nodes)
    assert bend.startswith("M9 22")
    assert bend.endswith(" 27 66")
    assert straight == "M9 22V110"


def test_a_circle_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing of a, b can come first"):
        provenance.layout([Link("a", "0", ("b",)), Link("b", "1", ("a",))])
