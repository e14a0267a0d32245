"""From a folder of anything to masks in one call: find, prepare, check, fill, segment, and write it all down."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from ummgat.completion.cohort import made_from
from ummgat.core.each import Progress, Report, each, named, reason
from ummgat.core.files import exclusive, remove_leftovers
from ummgat.core.machine import choose_device
from ummgat.core.stamp import fingerprint, up_to_date
from ummgat.core.study import Study
from ummgat.core.version import __version__
from ummgat.front.channels import Policy, check_policy
from ummgat.front.networks import Foreign, check_model, open_model, open_segmenter, own_spacing
from ummgat.front.page import GENERATOR, MANY_PICTURES, Line, write_cohort_page
from ummgat.front.planes import as_text
from ummgat.front.record import COLUMNS, PAGE, RECORD, TABLE, SegmentationRecord, read_record, write_table
from ummgat.front.sources import PREPARED, Intake, Source, is_prepared, prepare_source, prepared_studies
from ummgat.front.study import PREVIEW, Order, segment_one
from ummgat.intake.rows import Accept
from ummgat.model.weights import TrainedModel
from ummgat.segment.contract import Segmenter
from ummgat.segment.folds import CrossFitted

_ALGORITHM = 1  # raise when segmenting the same study with the same networks would give other files

_UNKNOWN = "unknown"
"""Center of studies of which nobody said where they come from and no model has to know."""


@dataclass
class SegmentReport(Report[SegmentationRecord]):
    """What `segment` did: `done` holds the sidecar of every study that was segmented now."""

    before: dict[str, SegmentationRecord] = field(default_factory=dict)
    """Sidecars of studies that are up to date."""
    remarks: list[str] = field(default_factory=list)
    """What was found out about the folder as a whole."""
    table: Path | None = None
    """Volumes of every study in the output."""
    page: Path | None = None
    """The same as a page, with previews."""


def segment(
    source: str | Path,
    out: str | Path,
    segmenter: str | Path | Segmenter | CrossFitted | None = None,
    *,
    policy: Policy = "generate",
    model: str | Path | TrainedModel | None = None,
    center: str | None = None,
    raw: bool = False,
    sheet: str | Path | None = None,
    layout: str = "auto",
    template: str | Path | None = None,
    brain_mask: str | None = None,
    n4: bool = False,
    checks: str | Path | None = None,
    accept: Accept = "sure",
    spacing_mm: float | None = None,
    with_reliability: bool = False,
    foreign: Foreign | None = None,
    device: str = "auto",
    jobs: int = 1,
    overwrite: bool = False,
    on_prepared: Progress | None = None,
    on_checked: Progress | None = None,
    on_segmented: Progress | None = None,
) -> SegmentReport:
    """Segment the tumours of one study or of a folder of them.

    Parameters
    ----------
    source : path
        A prepared cohort or study; NIfTI studies, co-registered and skull-stripped, or with `raw` as scanned; else
        anything that `ummgat inspect` lists, as DICOM. Never written to.
    out : path
        Gets a folder per subject (`labels.nii` on the prepared grid, `native/` with the same labels on the grid of
        every scan, generated images as the segmenter saw them, `preview.png`, `index.html`, `segmentation.json`);
        `volumes.csv` and `index.html` of all studies in it; and `prepared/` if the source was not prepared.
    segmenter : path, name or Segmenter, optional
        See `ummgat.front.networks.open_segmenter`. Default: the bundled one that suits the policy.
    policy : "generate", "empty" or "copy"
        What stands in for a sequence that the segmenter takes and the study lacks.
    model : path, name or TrainedModel, optional
        Generates. Default: the bundled one.
    center : str, optional
        Which of the model's centers the studies resemble; never guessed. Needed to generate if the model has several
        and the source is not prepared. A model of a single center takes every study for that one's.
    raw, sheet, layout, template, brain_mask, n4, checks
        How studies are prepared that are not, see `ummgat.complete_scans`.
    accept : "sure" or "likely"
        Of DICOM without a sheet: how sure it must be which sequence a series is. What is not is left out, and said.
    spacing_mm : float, optional
        Voxel size of the prepared grid, for a foreign segmenter; own ones know theirs.
    with_reliability : bool
        Also map how far to trust each generated voxel; several times as slow.
    foreign : Foreign, optional
        What a segmenter that others made needs, `trust` before all.
    device : str
        `auto`, `cpu`, `cuda` or `mps`.
    jobs : int
        Worker processes; the result does not depend on it. A foreign segmenter takes one.
    overwrite : bool
        Replace results that were made from other files or with other settings; prepare anew, too.
    on_prepared, on_checked, on_segmented : callable, optional
        (studies finished, studies in all, what happened to the last one).

    Returns
    -------
    SegmentReport
        Problems of single studies are in it; the rest is done.

    Raises
    ------
    FileNotFoundError, ValueError, FileExistsError
        For what concerns the whole call.
    OSError
        The disk is full. Finished studies stay.

    Examples
    --------
    >>> import ummgat
    >>> report = ummgat.segment("hospital/studies", "masks", center="A")  # doctest: +SKIP
    >>> report.done["p7"].volumes_ml["WT"], report.failed  # doctest: +SKIP
    """
    source, out = Path(source), Path(out)
    _check_call(source, out, policy)
    on = torch.device(choose_device(device))
    trained, model_is = open_model(model, device) if policy == "generate" else (None, None)
    center = center or (trained.only_center if trained is not None else None)
    at_mm = own_spacing(segmenter, policy) or spacing_mm
    intake = Intake(raw, _path(sheet), layout, _path(template), brain_mask, n4, _path(checks), accept)
    prepared = is_prepared(source)
    if prepared and intake != Intake():
        raise ValueError(
            f"Source is prepared already: {source}. Found prepared studies and settings of how to prepare; expected "
            f"one of them. Leave out --raw, --sheet, --accept, --layout, --template, --brain-mask, --n4 and --checks, "
            f"or give the original images."
        )
    found = prepared_studies(source) if prepared else Source()
    at_mm = at_mm or _spacing_of(found.studies) or (trained.config.data.spacing_mm if trained is not None else 1.0)
    if trained is not None:
        check_model(trained, at_mm, center, prepared)
    own, segmenter_is = open_segmenter(segmenter, policy, at_mm, foreign or Foreign(), on)
    out.mkdir(parents=True, exist_ok=True)
    with exclusive(out):
        if not prepared:
            found = prepare_source(
                source,
                out,
                intake,
                at_mm,
                center or _UNKNOWN,
                jobs=jobs,
                overwrite=overwrite,
                on_prepared=on_prepared,
                on_checked=on_checked,
            )
        common = [
            _ALGORITHM,
            __version__,
            segmenter_is.model_dump() | ({} if segmenter_is.hash != "unknown" else {"once": uuid4().hex}),
            model_is.model_dump() if model_is is not None else None,
            policy,
            center,
            with_reliability,
        ]
        report, todo, marks = _plan(found, out, common, overwrite)
        remove_leftovers(out)
        order = Order(out, own, segmenter_is, policy, trained, model_is, center, at_mm, with_reliability, marks)
        try:
            now = each(segment_one, todo, order, jobs=jobs, progress=on_segmented)
        finally:
            close = getattr(own, "close", None)
            if close is not None:
                close()
        report.done = now.done
        report.failed = dict(sorted((report.failed | now.failed).items()))
        _write_summary(out, report)
    return report


def _check_call(source: Path, out: Path, policy: str) -> None:
    check_policy(policy)
    if not source.is_dir():
        raise FileNotFoundError(f"Source is missing: {source}. Found no folder; expected studies. Check the path.")
    here, there = source.resolve(), out.resolve()
    if there.is_relative_to(here) or (here.is_relative_to(there) and here != there / PREPARED):
        raise ValueError(
            f"Output and source overlap: {out}. Found {source} as source; expected separate folders. Choose another "
            f"output."
        )
    for path, ours, what in (
        (out / TABLE, ",".join(COLUMNS), "a table"),
        (out / PAGE, f'name="generator" content="{GENERATOR}"', "a page"),
    ):
        if path.exists() and ours not in path.read_text(encoding="utf-8", errors="replace")[:2000]:
            raise FileExistsError(
                f"Output holds another file of this name: {path}. Found one that `ummgat segment` did not write; "
                f"expected none, or {what} of its own. Move it, or choose another output."
            )


def _plan(
    found: Source, out: Path, common: list[Any], overwrite: bool
) -> tuple[SegmentReport, dict[str, Study], Mapping[str, str]]:
    """Sort studies into those to do, those up to date and those that cannot be done; and the fingerprint of each."""
    report = SegmentReport(failed=dict(found.failed), remarks=list(found.remarks))
    todo, marks = {}, {}
    for subject, study in named(found.studies, lambda s: s.subject).items():
        try:
            if subject == PREPARED:
                raise ValueError(
                    f"Subject has a name that is taken: {subject}. Found it as a study; expected another name, as "
                    f"OUT/{PREPARED} holds the prepared cohort. Rename it."
                )
            marks[subject] = fingerprint(common, made_from(study), _generated_of(study))
            if up_to_date(out / subject, marks[subject], overwrite) is None:
                todo[subject] = study
            else:
                report.before[subject] = read_record(out / subject)
                report.up_to_date.append(subject)
        except (ValueError, OSError) as error:
            report.failed[subject] = reason(error)
    return report, todo, marks


def _generated_of(study: Study) -> list[Any]:
    """Of images that the study came with and that no scanner made: what they are, since they are given to the
    segmenter, too.
    """
    made = [image for image in study.record.images.values() if image.kind != "acquired"]
    return [(image.file, (study.folder / image.file).stat().st_mtime_ns) for image in made]


def _write_summary(out: Path, report: SegmentReport) -> None:
    """Table and page of all studies in the output, those of earlier calls included, and of those that failed now."""
    lines: list[Line] = []
    for path in sorted(out.glob(f"[!.]*/{RECORD}")):
        subject = path.parent.name
        try:
            record = report.done.get(subject) or report.before.get(subject) or read_record(path.parent)
            picture = (path.parent / PREVIEW).read_bytes() if len(lines) < MANY_PICTURES else b""
        except (ValueError, OSError) as error:
            report.failed.setdefault(subject, reason(error))
            continue
        if subject not in report.failed:  # what an earlier call made of it is not what was asked for now
            lines.append(Line(record, as_text(picture)))
    if lines or report.failed:
        write_table(out / TABLE, [line.record for line in lines], report.failed)
        write_cohort_page(out / PAGE, lines, report.failed)
        report.table, report.page = out / TABLE, out / PAGE


def _spacing_of(studies: list[Study]) -> float | None:
    return studies[0].grid.spacing_mm[0] if studies else None


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
