"""Assignment: how each grid is made and moved, and how each kernel is rounded, by rules on module paths."""

import dataclasses
import difflib
import functools
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Literal

from jaxmini.compress.quantize.estimators import Estimator, min_max
from jaxmini.compress.quantize.islands import float_island
from jaxmini.compress.quantize.kernels import Kernel
from jaxmini.compress.quantize.learned import Activation, observed
from jaxmini.compress.quantize.masks import Mask
from jaxmini.compress.quantize.norms import integer_norm
from jaxmini.compress.quantize.plan import INPUT, Plan
from jaxmini.compress.quantize.products import centred
from jaxmini.compress.quantize.wide import widened


@dataclasses.dataclass(frozen=True)
class rule:
    """What the parts of a network whose path matches a pattern get in place of the scheme's choice.

    A pattern is matched with a group's name as the plan prints it (``Net/head:dense``, the colon may be a
    slash), with the path of its module (``Net/head``), and with these without the network's own name
    (``head``, ``head/*``). ``*`` matches any text, slashes too. The network's input is called ``input``.

    Attributes:
        pattern: a glob, case-sensitive.
        estimator: of the range of what the group leaves; None leaves the scheme's.
        kernel: how the group's kernel is rounded; None leaves the scheme's.
        activation: of how many bits the grid of what the group leaves is, and how training moves it; None
            leaves the scheme's.
    """

    pattern: str
    estimator: Estimator | None = None
    kernel: Kernel | None = None
    activation: Activation | None = None

    def __post_init__(self) -> None:
        if self.estimator is None and self.kernel is None and self.activation is None:
            raise ValueError(
                f"rule({self.pattern!r}) sets nothing: give it an estimator, a kernel or an activation"
            )
        check(
            self.estimator or Estimator(),
            self.kernel or Kernel(),
            f"rule({self.pattern!r})",
            self.activation,
        )

    def __repr__(self) -> str:
        """Its fields; the last only where it is set, as rules were printed before there was one."""
        shown = ["pattern", "estimator", "kernel"] + ["activation"] * (self.activation is not None)
        return f"rule({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def matches(self, name: str) -> bool:
        """Whether the pattern matches the name of a group, or ``input``."""
        return matches(self.pattern, name)


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a scheme chooses for the parts of any plan: its defaults, the rules before them, islands.

    Without an ``activation`` only kernels are rounded.
    """

    estimator: Estimator
    kernel: Kernel
    rules: tuple[rule, ...] = ()
    activation: Activation | None = observed()
    islands: tuple[float_island | integer_norm, ...] = ()

    def kernel_of(self, name: str) -> Kernel:
        """How the kernel of a group is rounded."""
        return getattr(self._first(name), "kernel", None) or self.kernel

    def estimator_of(self, name: str) -> Estimator:
        """What the range of a group, or of the input, is made with."""
        return getattr(self._first(name), "estimator", None) or self.estimator

    def activation_of(self, name: str) -> Activation:
        """How training moves the grid of a group, or of the input."""
        return getattr(self._first(name), "activation", None) or self.activation

    def _first(self, name: str) -> rule | None:
        """The first rule that matches: it alone decides."""
        return next((one for one in self.rules if one.matches(name)), None)


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern, as of a ``rule``, matches the name of a group or the path of a module."""
    return any(fnmatchcase(form, pattern) for form in _forms(name))


def near(pattern: str, names: list[str]) -> str:
    """What to offer for a pattern that matches none of the names."""
    forms = dict.fromkeys(form for name in names for form in _forms(name))
    close = difflib.get_close_matches(pattern, forms, 3, 0.5)
    return f"near it: {', '.join(close)}" if close else f"there are: {', '.join(names)}"


def check(
    estimator: Estimator, kernel: Kernel, where: str, activation: Activation | None = None
) -> None:
    """Raise TypeError if a value is not of its kind."""
    for value, kind, example in (
        (estimator, Estimator, "mse()"),
        (kernel, Kernel, "per_tensor()"),
        (activation or Activation(), Activation, "lsq()"),
    ):
        if not isinstance(value, kind):
            name = kind.__name__.lower()
            raise TypeError(f"{where}: {name} is {value!r}, expected one as {example}")


@functools.lru_cache(maxsize=64)
def assign(plan: Plan, choices: Choices) -> Plan:
    """The plan with the estimator of each observed site and the rounding of each kernel.

    Raises:
        ValueError: a rule sets nothing in this plan, rules disagree over a grid that groups share, or
            activations are of 16 bits in part, or where they have no kernel.
    """
    for position, one in enumerate(choices.rules):
        _check_used(one, choices.rules[:position], plan)
    centre = centred(plan)  # a walk over the plan, once for all sites
    assigned = dataclasses.replace(
        plan,
        estimators={site: _shared(site, plan, choices, "estimator") for site in plan.observed},
        kernels={group.name: choices.kernel_of(group.name) for group in plan.weighted},
        activations={
            site: _activation(site, plan, choices, site in centre) for site in plan.observed
        },
    )
    return widened(assigned) if assigned.is_wide else assigned


def _shared(
    site: str, plan: Plan, choices: Choices, field: Literal["estimator", "activation"]
) -> Estimator | Activation:
    """What a site gets, for all groups that share it.

    A mask's range reaches for what it hides, and nothing may clip or move that.
    """
    if site in _masked(plan):
        return min_max() if field == "estimator" else observed()
    of = choices.estimator_of if field == "estimator" else choices.activation_of
    sharing = {name: of(name) for name in _sharing(site, plan)}
    if len(set(sharing.values())) > 1:
        given = ", ".join(f"{name} {choice}" for name, choice in sharing.items())
        raise ValueError(
            f"int8: these share one grid, and rules give them several {field}s: {given}: write "
            "one rule that matches them all"
        )
    return sharing[site]


def _activation(site: str, plan: Plan, choices: Choices, is_centred: bool) -> Activation:
    """How training moves a site's grid; what a scheme says of rectified sites is not of the others."""
    choice = _shared(site, plan, choices, "activation")
    if isinstance(choice, observed) and is_centred:
        return dataclasses.replace(choice, symmetric=True)
    if not choice.rectified or plan.is_rectified(site):
        return choice
    if choice == choices.activation:
        return observed(bits=choice.bits)
    raise ValueError(
        f"int8: a rule gives {site!r} {choice}, which is of what a rectifier leaves, and nothing "
        "rectifies all of it: give it lsq() or lsq_plus()"
    )


def _check_used(one: rule, before: tuple[rule, ...], plan: Plan) -> None:
    """Raise ValueError if a rule sets nothing."""
    groups = plan.weighted if plan.rounds_kernels_alone else plan.groups
    names = [INPUT] * (INPUT in plan.observed) + [group.name for group in groups]
    matched = [name for name in names if one.matches(name)]
    if not matched:
        raise ValueError(
            f"quantize: rule({one.pattern!r}) matches nothing; {near(one.pattern, names)}"
        )
    won = [name for name in matched if not any(earlier.matches(name) for earlier in before)]
    if not won:
        raise ValueError(
            f"quantize: rule({one.pattern!r}) comes after rules that match all it matches: put it first"
        )
    kernels = [group.name for group in plan.weighted]
    own = [site for site in plan.observed if site not in _masked(plan)]
    ranges = [name for site in own for name in _sharing(site, plan)]
    for field, what, able in (
        ("kernel", "kernel", kernels),
        ("estimator", "range of its own", ranges),
        ("activation", "range of its own", ranges),
    ):
        if getattr(one, field) is not None and not set(won) & set(able):
            raise ValueError(
                f"quantize: rule({one.pattern!r}) sets its {field}, and nothing that it decides on has a "
                f"{what}: {', '.join(won)}; these have: {', '.join(able)}"
            )


def _masked(plan: Plan) -> set[str]:
    """The sites whose ranges follow from what a mask hides: there is nothing to choose, nor to learn."""
    return {group.site for group in plan.groups if isinstance(group, Mask)}


def _sharing(site: str, plan: Plan) -> tuple[str, ...]:
    return (site, *plan.ties.get(site, ()))


def _forms(name: str) -> Iterator[str]:
    """A group's name, with a slash too, and its module's path, with and without the network's own name."""
    path, _, _ = name.partition(":")
    for whole in (name, path, name.replace(":", "/")):
        yield whole
        _, slash, rest = whole.partition("/")
        if slash:
            yield rest
