"""Instructions: of a compiled program, and what each is for.

XLA keeps the name that JAX gave an operation with the instruction that came of it, and with each that it
fuses.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from jaxmini.cpu.choice import SCOPE

FORWARD, BACKWARD = "convolutions, forward", "convolutions, backward"
PRODUCTS, NORMS, ELEMENTWISE = "matrix products", "norms", "elementwise"
OPTIMIZER, COPIES, UNKNOWN = "optimizer", "copies", "unknown"
KINDS = (FORWARD, BACKWARD, PRODUCTS, NORMS, ELEMENTWISE, OPTIMIZER, COPIES, UNKNOWN)

# A computation's first line, an instruction's, and what stands in it.
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (?:\(.*?\)|\S+) ([a-z][\w-]*)\(")
NAME, FUSED = re.compile(r'op_name="([^"]*)"'), re.compile(r"calls=%?([\w.-]+)")
NORM = re.compile(r"/\w*(?:[Nn]orm|bn)(?:_?\d+)?/")
READ = re.compile(r"%([\w.-]+)")
FORMULATION = re.compile(re.escape(SCOPE) + r"\.([\w.]+)")

# What computes nothing.
MOVES = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy", "transpose"),
    *("reshape", "broadcast", "slice", "dynamic-slice", "dynamic-update-slice", "concatenate"),
    *("pad", "reverse", "iota"),
}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction of a compiled program.

    Attributes:
        opcode: as XLA calls it.
        name: scopes and primitive as JAX calls them, a slash between two; empty where it has none.
        inside: opcodes of all that is fused in it, its own where nothing is.
    """

    opcode: str
    name: str
    inside: frozenset[str]

    @property
    def kind(self) -> str:
        """Which of ``KINDS`` it is."""
        is_forward = "jvp(" in self.name and "transpose(" not in self.name
        if SCOPE in self.name or "convolution" in self.inside:
            return FORWARD if is_forward else BACKWARD
        if "dot" in self.inside or self.name.endswith("/dot_general"):
            return PRODUCTS
        if NORM.search(self.name):
            return NORMS
        if _is_of_jax(self.name) and "jvp(" not in self.name:
            return OPTIMIZER
        if self.inside <= MOVES:
            return COPIES
        return ELEMENTWISE if _is_of_jax(self.name) else UNKNOWN

    @property
    def is_product(self) -> bool:
        """Whether a convolution or a matrix product is in it."""
        return bool(self.inside & {"convolution", "dot"})

    @property
    def formulation(self) -> str:
        """Of a convolution: jaxmini's by name, or XLA's."""
        found = FORMULATION.search(self.name)
        return found[1] if found else "XLA's own"


def instructions(text: str) -> dict[str, Instruction]:
    """Those of a compiled program's text, by name.

    What is fused stands above what runs it, and what is read above what reads it. XLA drops the names of some
    products: such a one has that of its first reader.
    """
    computations: dict[str, list[Instruction]] = {}
    found, body = {}, []
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            body = computations.setdefault(match[1], [])
        elif match := INSTRUCTION.match(line):
            body.append(_instruction(line, match[2], computations))
            found[match[1]] = body[-1]
            for read in READ.findall(line, match.end()):
                if read in found and found[read].is_product and not found[read].name:
                    found[read] = dataclasses.replace(found[read], name=body[-1].name)
    return found


def _instruction(
    line: str, opcode: str, computations: Mapping[str, Sequence[Instruction]]
) -> Instruction:
    """A fusion is called as the product in it, else as itself, else as the last in it that has a name."""
    own, fused = NAME.search(line), FUSED.search(line) if opcode == "fusion" else None
    parts = computations.get(fused[1], ()) if fused else ()
    products = (part.name for part in parts if part.is_product)
    names = [*products, own[1] if own else "", *(part.name for part in reversed(parts))]
    name = next(filter(_is_of_jax, names), own[1] if own else "")
    inside = frozenset().union(*(part.inside for part in parts)) or frozenset({opcode})
    return Instruction(opcode, name, inside)


def _is_of_jax(name: str) -> bool:
    """Not an argument's, which is how it is reached."""
    return name.startswith("jit(")
