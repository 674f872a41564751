"""Benchmarks: what jaxmini costs and what its stages are worth, measured: ``python -m benchmarks.NAME``."""
