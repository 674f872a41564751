"""The names by which every exported file is called: one signature, one input, one output; or one more."""

SIGNATURE = "serving_default"
INPUT = "image"
OUTPUT = "logits"
# Both the second signature and its output.
EMBEDDING = "embedding"
