"""Measuring translations against the truth and against what needs no network."""
