"""The command line. Each command parses its arguments, calls one function and prints what came back.

What needs torch or numpy is imported inside the commands, so that --help is quick.
"""

# Importing registers the commands, in the order of --help.
from ummgat.cli import (
    checking,
    cohorts,
    comparing,
    evaluation,
    exporting,
    intake,
    models,
    quality,
    rating,
    segmenter_training,
)
from ummgat.cli.terminal import app, main, message_of

__all__ = [
    "app",
    "checking",
    "cohorts",
    "comparing",
    "evaluation",
    "exporting",
    "intake",
    "main",
    "message_of",
    "models",
    "quality",
    "rating",
    "segmenter_training",
]
