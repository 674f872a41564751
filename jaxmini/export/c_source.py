"""C++ of a file for TFLite-Micro: the bytes as an array, its facts as constants, its operators, an example.

Only text is made here. The same network gives the same text: no date, no path, no name of a machine.
"""

import dataclasses
import math
import re
from collections.abc import Iterable

from jaxmini.export.arena import ALIGNMENT, Arena
from jaxmini.export.flatbuffer import Tensor
from jaxmini.export.micro_operators import adder

BYTES_A_LINE = 12


@dataclasses.dataclass(frozen=True)
class Source:
    """All that the text says.

    Attributes:
        name: of the namespace and the files.
        content: of the .tflite file.
        sha256: of the content.
        image, logits: the file's input and output.
        encoding: how a pixel is written into the input; empty where the file does not say.
        labels: of the outputs; may be empty.
        ops: the schema names of the operators, each once.
        arena: measured.
        machine: the architecture it was measured on.
    """

    name: str
    content: bytes
    sha256: str
    image: Tensor
    logits: Tensor
    encoding: str
    labels: tuple[str, ...]
    ops: tuple[str, ...]
    arena: Arena
    machine: str


def files(source: Source) -> dict[str, str]:
    """File name -> text."""
    return {
        f"{source.name}.h": header(source),
        f"{source.name}.cc": array(source),
        f"{source.name}_ops.h": operators(source),
        "main.cc": example(source),
    }


def header(source: Source) -> str:
    """The constants, and the declarations of the array and the labels."""
    arena, name = source.arena, source.name
    described = f"{_described(source.image)} -> {_described(source.logits)}"
    lines = [
        f"// {name}: a network for TFLite-Micro, {described}.",
        "// SHA-256 of the .tflite file it was made of:",
        f"// {source.sha256}",
        *_opened(name),
        "#include <cstddef>",
        "#include <cstdint>",
        "",
        f"namespace {name} {{",
        "",
        "// The file, byte by byte. It is read in place, which needs its alignment.",
        f"constexpr std::size_t kModelSize = {len(source.content)};",
        "extern const unsigned char kModel[kModelSize];",
        "",
        "// Bytes of working memory with which it was seen to run, and no fewer; what TFLite-Micro",
        f"// reports is {arena.activations} of activations and {arena.persistent} that stay. This is of",
        f"// the reference kernels on {source.machine}: pointers of a 32-bit controller are shorter, kernels",
        "// made for a controller may ask for scratch memory of their own.",
        f"constexpr std::size_t kArenaSize = {arena.smallest};",
        "",
        "// A number is (stored - zero point) * scale.",
        *_constants("Input", source.image),
        *([f"// A pixel of 0..255 is stored as {source.encoding}."] if source.encoding else []),
        *_constants("Output", source.logits),
        *_label_declaration(source.labels),
        "",
        f"}}  // namespace {name}",
        "",
        f"#endif  // {_guard(name)}",
    ]
    return _text(lines)


def array(source: Source) -> str:
    """The definition of the array and the labels."""
    content, width = source.content, BYTES_A_LINE
    rows = (content[start : start + width] for start in range(0, len(content), width))
    labels = []
    if source.labels:
        quoted = [f"    {literal(label)}," for label in source.labels]
        labels = ["", "const char* const kLabels[kLabelCount] = {", *quoted, "};"]
    lines = [
        f'#include "{source.name}.h"',
        "",
        f"namespace {source.name} {{",
        "",
        f"alignas({ALIGNMENT}) const unsigned char kModel[kModelSize] = {{",
        *("    " + " ".join(f"0x{byte:02x}," for byte in row) for row in rows),
        "};",
        *labels,
        "",
        f"}}  // namespace {source.name}",
    ]
    return _text(lines)


def operators(source: Source) -> str:
    """The operators of the file for ``tflite::MicroMutableOpResolver``."""
    name = f"{source.name}_ops"
    lines = [
        f"// The operators of {source.name}; a resolver that holds no others is the smallest.",
        *_opened(name),
        '#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"',
        "",
        f"namespace {source.name} {{",
        "",
        f"using OpResolver = tflite::MicroMutableOpResolver<{len(source.ops)}>;",
        "",
        "inline TfLiteStatus AddOps(OpResolver& resolver) {",
        *(f"  TF_LITE_ENSURE_STATUS(resolver.{adder(op)}());" for op in source.ops),
        "  return kTfLiteOk;",
        "}",
        "",
        f"}}  // namespace {source.name}",
        "",
        f"#endif  // {_guard(name)}",
    ]
    return _text(lines)


def example(source: Source) -> str:
    """A program that runs the network once."""
    name = source.name
    answer = f"{name}::kLabels[best]" if source.labels else '"the largest output"'
    return f"""// One run of {name} on an input of zeros. It is built with TFLite-Micro and its include paths.

#include <cstddef>
#include <cstdint>

#include "{name}.h"
#include "{name}_ops.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {{

alignas({ALIGNMENT}) std::uint8_t arena[{name}::kArenaSize];

}}  // namespace

int main() {{
  tflite::InitializeTarget();
  const tflite::Model* model = tflite::GetModel({name}::kModel);
  if (model->version() != TFLITE_SCHEMA_VERSION) {{
    MicroPrintf("the model is of another version of the schema");
    return 1;
  }}
  {name}::OpResolver resolver;
  if ({name}::AddOps(resolver) != kTfLiteOk) return 1;
  tflite::MicroInterpreter interpreter(model, resolver, arena, sizeof(arena));
  if (interpreter.AllocateTensors() != kTfLiteOk) {{
    MicroPrintf("the arena is too small");
    return 1;
  }}

  std::int8_t* input = interpreter.input(0)->data.int8;
  for (std::size_t i = 0; i < {name}::kInputSize; ++i) {{
    input[i] = static_cast<std::int8_t>({name}::kInputZeroPoint);  // put your numbers here
  }}
  if (interpreter.Invoke() != kTfLiteOk) return 1;

  const std::int8_t* output = interpreter.output(0)->data.int8;
  std::size_t best = 0;
  for (std::size_t i = 1; i < {name}::kOutputSize; ++i) {{
    if (output[i] > output[best]) best = i;
  }}
  MicroPrintf("%d: %s, stored as %d", static_cast<int>(best), {answer},
              static_cast<int>(output[best]));
  return 0;
}}
"""


def literal(text: str) -> str:
    """The text as a C string of its UTF-8 bytes, none of which needs another encoding to be read."""
    # Octal escapes end after three digits; hexadecimal ones would swallow digits that follow.
    plain = (
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{"".join(plain)}"'


def _opened(name: str) -> list[str]:
    guard = _guard(name)
    return ["", f"#ifndef {guard}", f"#define {guard}", ""]


def _guard(name: str) -> str:
    return f"{re.sub('[^A-Z0-9]', '_', name.upper())}_H_"


def _constants(what: str, tensor: Tensor) -> list[str]:
    return [
        f"constexpr std::size_t k{what}Size = {math.prod(tensor.shape)};",
        f"constexpr float k{what}Scale = {float(tensor.scale[0])!r}f;",
        f"constexpr std::int32_t k{what}ZeroPoint = {int(tensor.zero_point[0])};",
    ]


def _label_declaration(labels: tuple[str, ...]) -> list[str]:
    if not labels:
        return []
    return [
        "",
        "// In the order of the outputs, UTF-8.",
        f"constexpr std::size_t kLabelCount = {len(labels)};",
        "extern const char* const kLabels[kLabelCount];",
    ]


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"
