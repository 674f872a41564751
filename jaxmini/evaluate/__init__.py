"""Evaluation: what files and models answer, cost and take, and how they compare."""

from jaxmini.evaluate.function_parity import FunctionParity as FunctionParity
from jaxmini.evaluate.function_parity import function_parity as function_parity
