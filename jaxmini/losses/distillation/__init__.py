"""Losses that make a student imitate a teacher, by what they compare: ``logits``.

The teacher never receives a gradient.
"""
