"""What a report is made of: sections with tables and pictures, whatever they tell."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

Table = list[dict[str, str]]


@dataclass
class Section:
    """A heading and what stands below it."""

    title: str
    notes: list[str] = field(default_factory=list)
    tables: Mapping[str, Table] = field(default_factory=dict)
    """File name without suffix → rows; one without rows is left out. Names are unique in a report."""
    figures: Mapping[str, Figure | Path] = field(default_factory=dict)
    """File name without suffix → a figure, or a PNG that exists."""
    captions: Mapping[str, str] = field(default_factory=dict)
    """Name of a table or figure → what it shows."""
    group: str = ""
    """Column of the tables at whose changes a line is drawn."""

    @property
    def empty(self) -> bool:
        """Nothing to show."""
        return not self.figures and not any(self.tables.values())


def number(value: object, digits: int = 3) -> str:
    """Print a number from a CSV cell: rounded, and a dash where there is none."""
    try:
        found = float(str(value))
    except ValueError:
        return "-"
    return "-" if math.isnan(found) else f"{found:.{digits}f}"
