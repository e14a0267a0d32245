"""Who was evaluated: the table that every report of a study begins with."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ummgat.core.study import Study

UNKNOWN = "not given"


def cohort_rows(
    parts: Mapping[str, Sequence[Study]], demographics: Mapping[str, Mapping[str, str]] | None = None
) -> list[dict[str, str]]:
    """One row per part of the draw and center.

    Parameters
    ----------
    parts : mapping of name → studies
        `training`, `selection`, `test`.
    demographics : mapping of subject → {"age", "sex"}, optional
        See `read_demographics`. Prepared studies hold neither, on purpose.
    """
    told = demographics or {}
    rows = []
    for part, studies in parts.items():
        for center in sorted({s.center for s in studies}):
            own = [s for s in studies if s.center == center]
            ages = [float(a) for s in own if (a := told.get(s.subject, {}).get("age"))]
            sexes = [x for s in own if (x := told.get(s.subject, {}).get("sex"))]
            names = list(dict.fromkeys(q for s in own for q in s.acquired))
            volumes = [v for s in own if (v := _tumour_ml(s)) is not None]
            rows.append(
                {
                    "part": part,
                    "center": center,
                    "n": str(len(own)),
                    "age, median (range)": f"{_range(ages)}, n {len(ages)}" if ages else UNKNOWN,
                    "sex": ", ".join(f"{x} {sexes.count(x)}" for x in sorted(set(sexes))) or UNKNOWN,
                    "sequences": ", ".join(f"{q} {sum(q in s.acquired for s in own)}" for q in names),
                    "annotated": str(len(volumes)),
                    "whole tumour in mL, median (range)": _range(volumes) if volumes else UNKNOWN,
                }
            )
    return rows


def _range(values: Sequence[float]) -> str:
    return f"{np.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def _tumour_ml(study: Study) -> float | None:
    lesion = study.lesion()
    return None if lesion is None else float(lesion.sum() * study.grid.voxel_ml)


def read_demographics(path: Path) -> dict[str, dict[str, str]]:
    """Read a CSV with the columns subject, age and sex; empty cells are unknown.

    Raises
    ------
    FileNotFoundError, ValueError
        Missing, other columns, an age that is no number, or a subject named twice.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"Demographics are missing: {path}. Found no file; expected CSV with subject,age,sex. Check the path."
        )
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if not {"subject", "age", "sex"} <= set(reader.fieldnames or ()):
            raise ValueError(
                f"Demographics have other columns: {path}. Found {', '.join(reader.fieldnames or ())}; expected "
                f"subject, age, sex. Rename them."
            )
        found: dict[str, dict[str, str]] = {}
        for row in reader:
            subject = row["subject"]
            bad = row["age"].strip() and not row["age"].strip().replace(".", "", 1).isdigit()
            if bad or subject in found:
                wrong = f"age {row['age']!r}" if bad else "two rows"
                raise ValueError(
                    f"Demographics are not clear: {path}, subject {subject}. Found {wrong}; expected one row with an "
                    f"age in years, or none. Correct it."
                )
            found[subject] = {"age": row["age"].strip(), "sex": row["sex"].strip()}
    return found
