"""Transformations that make a model smaller: functions from a Model to a Model."""
