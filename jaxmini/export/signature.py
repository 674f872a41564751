"""The names by which every exported file is called: one signature, one input, one output."""

SIGNATURE = "serving_default"
INPUT = "image"
OUTPUT = "logits"
