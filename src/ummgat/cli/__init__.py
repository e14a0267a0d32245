"""The command line. Each command parses its arguments, calls one function and prints what came back.

A file per command, called like it; terminal holds what all share, options the options that several have, bars, findings
and segmenters what some print and ask. What needs torch or numpy is imported inside the commands, so that --help is
quick.
"""

# Importing registers the commands, in the order of --help.
# ruff: isort: off
from ummgat.cli import complete as complete
from ummgat.cli import segment as segment
from ummgat.cli import export as export
from ummgat.cli import demo as demo
from ummgat.cli import doctor as doctor
from ummgat.cli import phantom as phantom
from ummgat.cli import inspect as inspect
from ummgat.cli import prepare as prepare
from ummgat.cli import check as check
from ummgat.cli import draw as draw
from ummgat.cli import train as train
from ummgat.cli import calibrate as calibrate
from ummgat.cli import pack as pack
from ummgat.cli import train_segmenter as train_segmenter
from ummgat.cli import train_checks as train_checks
from ummgat.cli import evaluate as evaluate
from ummgat.cli import quality as quality
from ummgat.cli import cross_center as cross_center
from ummgat.cli import compare as compare
from ummgat.cli import report as report
from ummgat.cli import directions as directions
from ummgat.cli import rate as rate

# ruff: isort: on
from ummgat.cli.terminal import app, main, message_of

__all__ = ["app", "main", "message_of"]
