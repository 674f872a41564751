"""Weights only: the scheme that rounds kernels and leaves activations as they are, in float."""

import dataclasses

from jaxmini.compress.quantize.assignment import Choices, check, rule
from jaxmini.compress.quantize.estimators import min_max
from jaxmini.compress.quantize.islands import float_island
from jaxmini.compress.quantize.kernels import Kernel, per_channel
from jaxmini.compress.quantize.learning import Manner
from jaxmini.compress.quantize.oscillation import monitoring
from jaxmini.compress.quantize.schedule import phases


@dataclasses.dataclass(frozen=True)
class weights_only:
    """Kernels as integers of 2..8 bits, one symmetric grid a channel or tensor; everything else in float.

    It needs no calibration, and no form in integers of anything between the kernels. The file is a quarter
    of the float one, an eighth with four bits packed; it computes as long as the float one does.

    Attributes:
        kernel: one scale a channel or a tensor (``per_channel``, ``per_tensor``, or learned ones), its
            bits, its clip.
        rules: what kernels of parts of the network get in place of it, by path; the first match decides.
            A ``float_island`` keeps those of its modules in float.
        oscillation: what is done about weights that oscillate between two integers: nothing,
            ``monitoring``, ``freezing`` or ``dampening``.
    """

    kernel: Kernel = per_channel()
    rules: tuple[rule | float_island, ...] = ()
    oscillation: monitoring | None = None

    # What ``int8`` can be told of activations, and there is nothing of here.
    momentum = 1.0
    schedule = phases()

    def __post_init__(self) -> None:
        check(min_max(), self.kernel, "weights_only")
        if not (
            isinstance(self.rules, tuple)
            and all(isinstance(one, rule | float_island) for one in self.rules)
        ):
            raise TypeError(
                f"weights_only: rules are {self.rules!r}, expected a tuple as (rule(...),)"
            )
        for one in self._kernel_rules:
            if one.estimator is not None or one.activation is not None:
                raise ValueError(
                    f"weights_only: {one!r} speaks of activations, which stay float: give it a kernel "
                    "alone, or quantize with int8()"
                )
        if not (self.oscillation is None or isinstance(self.oscillation, monitoring)):
            raise TypeError(
                f"weights_only: oscillation is {self.oscillation!r}, expected one as freezing()"
            )

    @property
    def choices(self) -> Choices:
        """What is chosen for the parts of a plan."""
        islands = tuple(one for one in self.rules if isinstance(one, float_island))
        return Choices(min_max(), self.kernel, self._kernel_rules, None, islands)

    @property
    def manner(self) -> Manner:
        """What is said of training as a whole."""
        return Manner(self.momentum, self.schedule, self.oscillation)

    @property
    def learns(self) -> bool:
        """Whether training decides on more than kernels themselves."""
        kernels = (self.kernel, *(one.kernel for one in self._kernel_rules))
        return any(kernel.learned for kernel in kernels) or self.oscillation is not None

    @property
    def _kernel_rules(self) -> tuple[rule, ...]:
        return tuple(one for one in self.rules if isinstance(one, rule))
