"""The names by which every exported file is called: one signature, one input, one output; or one more."""

SIGNATURE = "serving_default"
INPUT = "image"
# The input of an ONNX file that reads token numbers.
TOKENS = "tokens"
OUTPUT = "logits"
# Both the second signature and its output.
EMBEDDING = "embedding"
