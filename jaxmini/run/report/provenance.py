"""Provenance: what was made from what, laid out as a graph that grows downwards.

Every link has a row of its own and a lane; the line to what was made from it stays in its lane down
to that row, so no line passes through a link that it does not belong to.
"""

import dataclasses
from collections.abc import Sequence

from jaxmini.run.report.content import Link

ROW, LANE, RADIUS = 44, 18, 5  # CSS pixels; ROW is the height of a row in report.css


@dataclasses.dataclass(frozen=True)
class Node:
    """A link, the lane it stands in, and the rows of what it was made from."""

    link: Link
    lane: int
    sources: tuple[int, ...]


def layout(links: Sequence[Link]) -> tuple[Node, ...]:
    """A node for each link, a link after all that it was made from.

    Raises:
        ValueError: links are made from one another in a circle.
    """
    ordered = _ordered(links)
    rows = {link.name: row for row, link in enumerate(ordered)}
    waiting = {link.name: {o.name for o in ordered if link.name in o.made_from} for link in ordered}
    lanes: list[str | None] = []  # whose line is in each lane
    nodes = []
    for link in ordered:
        for source in link.made_from:
            waiting[source].discard(link.name)
        lanes = [None if held is None or not waiting[held] else held for held in lanes]
        lane = _free_lane(lanes, [nodes[rows[s]].lane for s in link.made_from])
        lanes += [None] * (lane + 1 - len(lanes))
        lanes[lane] = link.name
        nodes.append(Node(link, lane, tuple(rows[source] for source in link.made_from)))
    return tuple(nodes)


def paths(nodes: Sequence[Node]) -> tuple[str, ...]:
    """The lines from each node to what was made from it, as SVG path data."""
    lines = []
    for row, node in enumerate(nodes):
        for source in node.sources:
            (x0, y0), (x1, y1) = place(nodes[source].lane, source), place(node.lane, row)
            turn = y1 - ROW + 2 * RADIUS
            middle = (turn + y1) // 2
            straight = f"M{x0} {y0}V{y1}"
            bend = f"M{x0} {y0}V{turn}C{x0} {middle} {x1} {middle} {x1} {y1}"
            lines.append(straight if x0 == x1 else bend)
    return tuple(lines)


def place(lane: int, row: int) -> tuple[int, int]:
    """The centre of a node, in CSS pixels."""
    return LANE // 2 + LANE * lane, ROW // 2 + ROW * row


def _ordered(links: Sequence[Link]) -> list[Link]:
    """The links in their own order as far as sources come first."""
    left, done = list(links), []
    while left:
        made = {link.name for link in done}
        ready = next((link for link in left if made.issuperset(link.made_from)), None)
        if ready is None:
            names = ", ".join(link.name for link in left)
            raise ValueError(f"nothing of {names} can come first: they are made from one another")
        left.remove(ready)
        done.append(ready)
    return done


def _free_lane(lanes: Sequence[str | None], wanted: Sequence[int]) -> int:
    free = [lane for lane, held in enumerate(lanes) if held is None]
    return next((lane for lane in wanted if lane in free), min(free, default=len(lanes)))
