"""What readers of a blinded page found out: answers checked against the key, scored, and compared with each other."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ummgat.core.files import read_json
from ummgat.rate.agreement import (
    Estimate,
    bootstrap,
    crossed,
    fleiss_kappa,
    guessing_p,
    icc,
    kappa_of,
    mann_whitney,
    share,
    squared,
)
from ummgat.rate.make import KEY_COLUMNS

ANSWER_COLUMNS = ("page", "reader", "image", "answer", "quality", "remark")

FORMAT = "ummgat-answers-1"

WORDS = ("real", "generated")

QUALITIES = 5

Row = dict[str, Any]


class Reading(NamedTuple):
    """Answers of one reader, in the order of the key."""

    reader: str
    said_generated: NDArray[np.bool_]
    quality: NDArray[np.int64]
    """1 (unusable) to 5 (excellent)."""
    remarks: list[str]


def read_key(path: Path) -> list[dict[str, str]]:
    """Read `key.csv`; ValueError if it is not one."""
    rows = _read_csv(path, KEY_COLUMNS, "key.csv, as `ummgat rate make` wrote it")
    bad = sorted({row["truth"] for row in rows} - set(WORDS))
    repeated = _repeated([row["image"] for row in rows])
    if not rows or bad or repeated or len({row["page"] for row in rows}) != 1:
        raise ValueError(
            f"Key is damaged: {path}. Found {len(rows)} rows, unknown truths {bad}, images named twice {repeated}, "
            f"{len({row['page'] for row in rows})} pages; expected one page, each image once, real or generated. "
            f"Restore the file, or make the page again with the same seed."
        )
    return rows


def read_answers(path: Path, key: Sequence[dict[str, str]]) -> Reading:
    """Read what a reader sent back (CSV or JSON) and check it against the key.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, another format, answers to another page, and all images at once that are unknown, missing,
        answered twice or not answered fully.
    """
    rows = (
        _answers_of_json(path) if path.suffix.lower() == ".json" else _read_csv(path, ANSWER_COLUMNS, "an answer file")
    )
    readers, pages = {row["reader"].strip() for row in rows}, {row["page"] for row in rows}
    problems = []
    if pages != {key[0]["page"]}:
        problems.append(f"answers to page {', '.join(sorted(pages)) or 'none'} instead of {key[0]['page']}")
    if len(readers) != 1 or "" in readers:
        problems.append(f"reader {sorted(readers)} instead of one name")
    wanted, given = [row["image"] for row in key], [row["image"] for row in rows]
    problems += _named("unknown images", [i for i in dict.fromkeys(given) if i not in wanted])
    problems += _named("missing images", [i for i in wanted if i not in given])
    problems += _named("images answered twice", _repeated(given))
    allowed = {str(q) for q in range(1, QUALITIES + 1)}
    problems += _named("images without real or generated", [r["image"] for r in rows if r["answer"] not in WORDS])
    problems += _named(
        "images without a quality from 1 to 5", [r["image"] for r in rows if r["quality"] not in allowed]
    )
    if problems:
        raise ValueError(
            f"Answers do not fit the key: {path}. Found {'; '.join(problems)}; expected one full answer to each of "
            f"{len(wanted)} images of the page. Ask the reader to finish and export again."
        )
    by_image = {row["image"]: row for row in rows}
    ordered = [by_image[image] for image in wanted]
    return Reading(
        readers.pop(),
        np.array([row["answer"] == "generated" for row in ordered]),
        np.array([int(row["quality"]) for row in ordered]),
        [row["remark"] for row in ordered],
    )


def _named(what: str, images: Sequence[str]) -> list[str]:
    return [f"{what}: {', '.join(images)}"] if images else []


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def _read_csv(path: Path, columns: Sequence[str], expected: str) -> list[dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"File is missing: {path}. Found nothing there; expected {expected}. Check the path.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark in front
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"File is not CSV: {path}. Found {error}; expected {expected}. Take the file as it was written."
        ) from error
    odd = [row for row in rows if set(row) != set(columns) or None in row.values()]
    if odd or not rows:
        found = ", ".join(str(name) for name in (odd[0] if odd else ())) or "no row"
        raise ValueError(
            f"File has other columns: {path}. Found {found}; expected {', '.join(columns)} ({expected}). Take the file "
            f"as it was written."
        )
    return rows


def _answers_of_json(path: Path) -> list[dict[str, str]]:
    value = read_json(path)
    try:
        if value["format"] != FORMAT:
            raise ValueError(value["format"])
        common = {"page": str(value["page"]), "reader": str(value["reader"])}
        return [
            common | {name: str(answer[name]) for name in ("image", "answer", "quality", "remark")}
            for answer in value["answers"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"File is not an answer file: {path}. Found {error!r}; expected format {FORMAT}, page, reader and answers. "
            f"Take the file as the page wrote it."
        ) from error


def check_readers(readings: Sequence[Reading], paths: Sequence[Path]) -> None:
    """ValueError if nobody answered, or two files bear the same reader's name."""
    names = [reading.reader.casefold() for reading in readings]
    double = _repeated(names)
    if double:
        files = [str(path) for name, path in zip(names, paths, strict=True) if name in double]
        raise ValueError(
            f"Readers have the same name: {', '.join(files)}. Found {', '.join(double)} more than once; expected a "
            f"name of their own. If they are two people, change the name in one file; if one, leave out a file."
        )
    if not readings:
        raise ValueError("No answers are given. Found no file; expected at least one. Name the readers' files.")


def reader_rows(key: Sequence[dict[str, str]], readings: Sequence[Reading]) -> list[Row]:
    """Score every reader on all images and on those of each sequence.

    Returns
    -------
    list of rows
        reader, sequence (`all` first), n; accuracy, sensitivity (generated ones called generated) and specificity (real
        ones called real) with Wilson intervals; p of pure guessing; median quality of both kinds, Mann-Whitney p and
        the chance that a real image is rated higher.
    """
    truth, sequences = _truth(key)
    rows = []
    for reading in readings:
        for name in ("all", *dict.fromkeys(sequences)):
            here = np.ones(len(key), bool) if name == "all" else sequences == name
            right = reading.said_generated == truth
            row: Row = {"reader": reading.reader, "sequence": str(name), "n": int(here.sum())}
            for what, region in (
                ("accuracy", here),
                ("sensitivity", here & truth),
                ("specificity", here & ~truth),
            ):
                found = share(int(right[region].sum()), int(region.sum()))
                row |= {what: found.value, f"{what}_low": found.low, f"{what}_high": found.high}
            row["p_guessing"] = guessing_p(int(right[here].sum()), int(here.sum()))
            real, fake = (reading.quality[here & kind].astype(float) for kind in (~truth, truth))
            shift = mann_whitney(real, fake)
            row |= {
                "quality_real": float(np.median(real)) if len(real) else float("nan"),
                "quality_generated": float(np.median(fake)) if len(fake) else float("nan"),
                "quality_p": shift.p,
                "real_rated_higher": shift.superiority,
            }
            rows.append(row)
    return rows


def agreement_rows(key: Sequence[dict[str, str]], readings: Sequence[Reading], seed: int = 0) -> list[Row]:
    """Agreement of readers beyond chance, with bootstrap intervals over images; and their mean accuracy.

    Returns
    -------
    list of rows
        what, statistic, value, low, high, n_images, n_readers, n_defined. Agreement needs two readers; with one there
        is the accuracy only.
    """
    truth, _ = _truth(key)
    said = np.stack([r.said_generated for r in readings], axis=1).astype(np.int64)
    quality = np.stack([r.quality for r in readings], axis=1) - 1
    readers = len(readings)
    found: list[tuple[str, str, Estimate]] = [
        (
            "real or generated",
            "mean accuracy of readers",
            bootstrap(said == truth[:, None], lambda right: float(right.mean()), seed),
        )
    ]
    if readers == 2:
        found.append(
            (
                "real or generated",
                "Cohen's kappa",
                bootstrap(said, lambda v: kappa_of(crossed(v[:, 0], v[:, 1], 2)), seed),
            )
        )
        found.append(
            (
                "quality",
                "quadratic-weighted kappa",
                bootstrap(quality, lambda v: kappa_of(crossed(v[:, 0], v[:, 1], QUALITIES), squared(QUALITIES)), seed),
            )
        )
    if readers > 2:
        found.append(("real or generated", "Fleiss' kappa", bootstrap(said, lambda v: fleiss_kappa(v, 2), seed)))
    if readers > 1:
        found.append(("quality", "ICC(2,1)", bootstrap(quality, lambda v: icc(v.astype(float)), seed)))
    about = {"n_images": len(key), "n_readers": readers}
    return [{"what": what, "statistic": name} | estimate._asdict() | about for what, name, estimate in found]


def answer_rows(key: Sequence[dict[str, str]], readings: Sequence[Reading]) -> list[Row]:
    """Every answer beside the truth, one row per reader and image."""
    return [
        {"reader": r.reader}
        | row
        | {
            "answer": WORDS[int(r.said_generated[i])],
            "right": (row["truth"] == "generated") == bool(r.said_generated[i]),
            "quality": int(r.quality[i]),
            "remark": r.remarks[i],
        }
        for r in readings
        for i, row in enumerate(key)
    ]


def _truth(key: Sequence[dict[str, str]]) -> tuple[NDArray[np.bool_], NDArray[np.str_]]:
    return np.array([row["truth"] == "generated" for row in key]), np.array([row["sequence"] for row in key])


def summary_json(key: Sequence[dict[str, str]], readers: Sequence[Row], agreement: Sequence[Row]) -> Row:
    """The same as JSON; null where a number does not exist."""

    def plain(rows: Sequence[Row]) -> list[Row]:
        return [{k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()} for row in rows]

    return {
        "page": key[0]["page"],
        "n_images": len(key),
        "n_generated": sum(row["truth"] == "generated" for row in key),
        "n_subjects": len({row["subject"] for row in key}),
        "readers": plain(readers),
        "agreement": plain(agreement),
    }


def summary_text(key: Sequence[dict[str, str]], readers: Sequence[Row], agreement: Sequence[Row]) -> str:
    """Markdown with the numbers a paper would print."""
    n_fake = sum(row["truth"] == "generated" for row in key)
    subjects = len({row["subject"] for row in key})
    lines = [
        "# Blinded reading",
        "",
        (
            f"{len(key)} images ({n_fake} generated, {len(key) - n_fake} real) of {subjects} subjects, page "
            f"{key[0]['page']}."
        ),
        "Sensitivity: generated images called generated. Intervals: 95 %, Wilson. p: exact binomial against guessing;",
        "it takes images for independent, which several of one subject are not quite. Quality: median; P is the chance",
        "that a real image was rated higher than a generated one (0.5: no difference), p by Mann-Whitney.",
        "",
        "| reader | accuracy | sensitivity | specificity | p guessing | quality real | quality generated | P | p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in readers:
        if row["sequence"] == "all":
            shares = [
                f"{row[w]:.2f} ({row[f'{w}_low']:.2f} to {row[f'{w}_high']:.2f})"
                for w in ("accuracy", "sensitivity", "specificity")
            ]
            rest = (_p(row["p_guessing"]), f"{row['quality_real']:g}", f"{row['quality_generated']:g}")
            cells = (_cell(row["reader"]), *shares, *rest, f"{row['real_rated_higher']:.2f}", _p(row["quality_p"]))
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| of readers | statistic | value | 95 % by bootstrap over images |", "|---|---|---|---|"]
    for row in agreement:
        value = "does not exist" if row["value"] is None else f"{row['value']:.2f}"
        interval = "" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"
        lines.append(f"| {row['what']} | {row['statistic']} | {value} | {interval} |")
    if len({row["reader"] for row in readers}) == 1:
        lines += ["", "One reader: there is nobody to agree with."]
    return "\n".join(lines) + "\n"


def _p(value: float | None) -> str:
    return "no test possible" if value is None else f"{value:.2g}"


def _cell(text: str) -> str:
    """Text that someone else wrote, so that none of it is taken for markup or a link."""
    return re.sub(r"([\\`*_\[\]<>#!~:.])", r"\\\1", text.replace("|", "/").replace("\n", " "))
