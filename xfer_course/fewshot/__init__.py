"""Frozen features first: few labels, new classes, and what a class mean can do."""

__all__: list[str] = []
