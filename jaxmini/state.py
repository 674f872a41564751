"""State: the one pytree of arrays that holds everything a training run changes."""

from typing import Any, TypeAlias

import flax.struct
import jax

PyTree: TypeAlias = Any
Array: TypeAlias = jax.Array
Batch: TypeAlias = dict[str, Array]
Metrics: TypeAlias = dict[str, Array]


@flax.struct.dataclass
class State:
    """All that changes while a stage trains; saved whole, so a resumed run continues bit for bit.

    Attributes:
        step: updates made so far, int32 [].
        key: base key of the run, a typed PRNG key []. Never split and carried: every random number comes
            from ``fold_in`` of this key with the step or with an example's epoch and id.
        params: what the optimizer moves.
        collections: the model's other collections of variables (``batch_stats``, ``quant``).
        opt_state: the optimizer's state.
        carry: what an objective carries from step to step (a moving average, a queue, a centre).
    """

    step: Array
    key: Array
    params: PyTree
    collections: PyTree
    opt_state: PyTree
    carry: PyTree = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, PyTree]:
        """Linen's dict of collections, as ``Model.apply`` takes it."""
        return {"params": self.params, **self.collections}
