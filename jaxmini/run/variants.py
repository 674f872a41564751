"""Variants: which files hold numbers that training has settled, and what must have been trained for them."""

import types

from jaxmini.compress.quantize import int8, weights_only

# The scheme that trains the integers of a file of this variant; the others are of float networks.
TRAINED = types.MappingProxyType({"int8": int8, "int16x8": int8, "weights_only": weights_only})
# Bits of the activations of those of integers.
ACTIVATION_BITS = types.MappingProxyType({"int8": 8, "int16x8": 16})


def require_trained(variant: str, name: str, scheme: int8 | weights_only | None) -> None:
    """See that a stage has trained what a file stores.

    Args:
        variant: of the file.
        name: of the stage.
        scheme: it is quantized by; None if it trains in float.

    Raises:
        ValueError: it has not; says what to export, or to train, instead.
    """
    wanted = TRAINED.get(variant)
    if wanted is None:
        return
    where = f"export of stage {name!r} as {variant}"
    if scheme is None:
        raise ValueError(
            f"{where}: the stage trains in float; export a stage with quantize={wanted.__name__}(), or this "
            "one as float32, float16 or dynamic_int8"
        )
    if not isinstance(scheme, wanted):
        own = next(other for other, kind in TRAINED.items() if isinstance(scheme, kind))
        raise ValueError(
            f"{where}: the stage quantizes by {own}(); write it by Export(stage, variant={own!r}), or export "
            f"a stage with quantize={wanted.__name__}()"
        )
    bits = ACTIVATION_BITS.get(variant)
    if bits is not None and scheme.activation.bits != bits:
        raise ValueError(
            f"{where}: the stage trains activations of {scheme.activation.bits} bits, and such a file has "
            f"{bits}; give the stage quantize=int8(activation=observed(bits={bits})), or export another "
            "variant"
        )
