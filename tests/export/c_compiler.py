"""A C++ compiler where there is one, and headers that stand in for TFLite-Micro's."""

import shutil
import subprocess
from pathlib import Path

COMPILER = shutil.which("g++") or shutil.which("clang++")
STRICT = ("-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror")

# As much of TFLite-Micro as an example needs: an interpreter that answers with the input's first numbers.
_STAND_INS = {
    "tensorflow/lite/micro/micro_mutable_op_resolver.h": """
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
#define TF_LITE_ENSURE_STATUS(a) do { if ((a) != kTfLiteOk) return kTfLiteError; } while (0)
namespace tflite {
template <unsigned int count> class MicroMutableOpResolver {
 public:
  METHODS
 private:
  TfLiteStatus Next() { return ++added_ <= count ? kTfLiteOk : kTfLiteError; }
  unsigned int added_ = 0;
};
}
""",
    "tensorflow/lite/micro/micro_interpreter.h": """
#include <cstddef>
#include <cstdint>
struct TfLiteTensor { struct { std::int8_t* int8; } data; };
namespace tflite {
struct Model { int version() const { return 3; } };
class MicroInterpreter {
 public:
  template <class Resolver>
  MicroInterpreter(const Model*, const Resolver&, std::uint8_t* arena, std::size_t size)
      : arena_(arena), size_(size) { tensor_.data.int8 = reinterpret_cast<std::int8_t*>(arena); }
  TfLiteStatus AllocateTensors() { return arena_ && size_ ? kTfLiteOk : kTfLiteError; }
  TfLiteStatus Invoke() { return kTfLiteOk; }
  TfLiteTensor* input(int) { return &tensor_; }
  TfLiteTensor* output(int) { return &tensor_; }
 private:
  std::uint8_t* arena_;
  std::size_t size_;
  TfLiteTensor tensor_;
};
}
""",
    "tensorflow/lite/micro/micro_log.h": """
#include <cstdio>
#define MicroPrintf(...) std::printf(__VA_ARGS__)
""",
    "tensorflow/lite/micro/system_setup.h": "namespace tflite { inline void InitializeTarget() {} }",
    "tensorflow/lite/schema/schema_generated.h": """
#define TFLITE_SCHEMA_VERSION 3
namespace tflite {
inline const Model* GetModel(const void*) { static Model model; return &model; }
}
""",
}


def stand_in(folder: Path, methods: tuple[str, ...]) -> None:
    """Write headers that stand in for TFLite-Micro's; the resolver has these methods alone."""
    declared = "\n  ".join(f"TfLiteStatus {name}() {{ return Next(); }}" for name in methods)
    for name, text in _STAND_INS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("METHODS", declared))


def built(folder: Path, *sources: str) -> bytes:
    """What the program of these sources writes; warnings are errors.

    Raises:
        AssertionError: it does not compile, or ends with another code than 0.
    """
    program = folder / "program"
    command = [COMPILER, *STRICT, "-I", str(folder), *(str(folder / name) for name in sources)]
    compiled = subprocess.run([*command, "-o", str(program)], capture_output=True, check=False)
    assert compiled.returncode == 0, compiled.stderr.decode()
    ran = subprocess.run([program], capture_output=True, check=False)
    assert ran.returncode == 0, ran.returncode
    return ran.stdout
