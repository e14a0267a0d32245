"""The version of this package, apart from everything, so that every room may know it."""

__version__ = "0.1.0"
