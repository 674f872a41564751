"""Layout: how a file takes pictures, gives answers and stores kernels, where it is not the usual way.

A layout changes no number of the network: every one is the same network behind another door.
"""

import dataclasses
from typing import Literal

Variant = Literal["float32", "float16", "dynamic_int8", "weights_only", "int8", "int16x8"]
InputType = Literal["float32", "uint8", "int8", "int16"]
OutputType = Literal["float32", "int8", "int16"]

# What the input and the output of each variant can be; the first is the usual one.
INPUTS: dict[Variant, tuple[InputType, ...]] = {
    "float32": ("float32", "uint8"),
    "float16": ("float32", "uint8"),
    "dynamic_int8": ("float32", "uint8"),
    "weights_only": ("float32", "uint8"),
    "int8": ("int8", "uint8", "float32"),
    "int16x8": ("int16",),  # no kernel makes int16 of uint8 pixels
}
OUTPUTS: dict[Variant, tuple[OutputType, ...]] = {
    "float32": ("float32",),
    "float16": ("float32",),
    "dynamic_int8": ("float32",),
    "weights_only": ("float32",),
    "int8": ("int8", "float32"),
    "int16x8": ("int16", "float32"),
}
LARGEST_BATCH = 1024
# What the readers of task metadata make of a picture, and which answers they take of a file's own types.
GIVEN: tuple[InputType, ...] = ("uint8", "float32")
TAKEN: tuple[OutputType, ...] = ("float32",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How a file is called, and how it stores what it holds.

    Attributes:
        input: type of the pictures: ``uint8`` and ``float32`` take pixels 0..255, ``int8`` takes
            ``pixel - 128``, ``int16`` the pixel less the mean of the normalisation, which is inside in each.
            None is the variant's own.
        output: type of the logits; None is the variant's own.
        batch: pictures a run, 1..1024; it is part of the file.
        int4: store kernels of at most 4 bits two to a byte where all interpreters have a kernel for it
            (CONV_2D, FULLY_CONNECTED; any operator in a file of ``weights_only``); the others stay int8,
            and the file's description tells which. XNNPACK leaves an int4 convolution to the
            interpreter's own kernels, so the answers of integers are no longer the simulation's bit for
            bit: one step apart here and there at each of these, which adds up in a deep network.
        embedding: path of the head's module, a glob as of ``quantize.rule``: a second signature,
            ``embedding``, gives the vector that this module takes. It shares the weights.
        task_metadata: add the metadata and the labels file that the TensorFlow Lite Task Library, MediaPipe
            and Android Studio read. The input is ``uint8`` or ``float32`` then, and the output ``float32``:
            they give and take no other. The Task Library and MediaPipe give single pictures of three
            channels; a file of one channel, or of a batch, is for other readers.
    """

    input: InputType | None = None
    output: OutputType | None = None
    batch: int = 1
    int4: bool = False
    embedding: str | None = None
    task_metadata: bool = False

    def __post_init__(self) -> None:
        if type(self.batch) is not int or not 1 <= self.batch <= LARGEST_BATCH:
            raise ValueError(
                f"Layout: batch is {self.batch!r}, expected an integer 1..{LARGEST_BATCH}"
            )
        if self.embedding == "":
            raise ValueError("Layout: embedding is an empty pattern; give the head's path, or None")

    def of(self, variant: Variant) -> "Layout":
        """The layout with what is left to the variant filled in.

        Raises:
            ValueError: the variant has no such input, output or storage (lists what it has), or task metadata
                would describe an input that its readers do not give, or an output that they do not take.
        """
        if self.int4 and variant not in ("int8", "weights_only"):
            raise ValueError(
                f"Layout: int4=True stores integer kernels of 'int8' and 'weights_only' files, and "
                f"{variant!r} is neither; export one of a network quantized with kernels of at most 4 bits"
            )
        input = _chosen("input", self.input, INPUTS[variant], variant)
        output = _chosen("output", self.output, OUTPUTS[variant], variant)
        if self.task_metadata:
            _require_read("input", input, GIVEN, INPUTS[variant], variant)
            _require_read("output", output, TAKEN, OUTPUTS[variant], variant)
        return dataclasses.replace(self, input=input, output=output)


# The variant's own types, one picture a run, nothing added.
USUAL = Layout()


def _chosen(what: str, asked: str | None, known: tuple[str, ...], variant: str) -> str:
    if asked is None:
        return known[0]
    if asked not in known:
        raise ValueError(
            f"Layout: the {what} of a file of variant {variant!r} is {' or '.join(known)}, not {asked!r}"
        )
    return asked


def _require_read(
    what: str, found: str, read: tuple[str, ...], known: tuple[str, ...], variant: Variant
) -> None:
    """See that readers of task metadata know such an input or output."""
    if found in read:
        return
    others = [f"{what}={one!r}" for one in read if one in known]
    remedy = f"ask for {' or '.join(others)}" if others else "leave it out"
    raise ValueError(
        f"Layout: task_metadata=True is for readers that know {' or '.join(read)} {what}s, and the {what} of "
        f"a file of variant {variant!r} is {found!r} here: {remedy}"
    )
