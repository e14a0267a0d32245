"""Complete studies on disk: a prepared cohort or plain NIfTI folders in, the same studies without gaps out.

Inputs are never touched. A study appears under its final name when it is whole; a bad one is reported and skipped.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from torch import Tensor

from ummgat.completion.fill import Generated, Request, encode_reference, fill
from ummgat.completion.memory import Model
from ummgat.completion.native import image_name, native_brain, write_native, write_scanned_space
from ummgat.core.domain import Domain, check_sequence
from ummgat.core.each import Progress, Report, each, named, reason
from ummgat.core.files import explained_full_disk, remove_leftovers, replaced_folder, write_json
from ummgat.core.paths import inside
from ummgat.core.placement import disagreement, header_of, placement_of
from ummgat.core.stamp import fingerprint, stamps, up_to_date, write_stamp
from ummgat.core.study import ImageRecord, Study, load_cohort, load_study, write_study
from ummgat.core.volume import Array, read_volume, write_volume
from ummgat.intake.layouts import RawStudy, find_studies
from ummgat.intake.left_out import image_stem, require_understood
from ummgat.model.weights import TrainedModel, opened_model
from ummgat.prepare.images import prepare_images


@dataclass
class CompletionReport(Report[list[str]]):
    """What `complete` did: `done` holds the generated files of each subject, relative to the output folder."""

    warnings: dict[str, list[str]] = field(default_factory=dict)
    """Subject → what to know before its images are believed, also of those that are up to date."""


@dataclass(frozen=True)
class _Order:
    """What all studies of one call share."""

    model: TrainedModel
    out: Path
    request: Request
    center: str | None
    told: Mapping[str, str]
    """How the center is known, for the sidecars."""
    codes: Mapping[str, Tensor]
    leave_out: tuple[str, ...]
    """Files of which the user says that they are none of the missing sequences."""
    marks: Mapping[str, str]
    """Subject → fingerprint of what its result is made from."""


_ALGORITHM = 1  # raise when completing the same study with the same model would give other files


def complete(
    source: str | Path,
    out: str | Path,
    model: str | Path | TrainedModel | Model | None = None,
    *,
    request: Request | None = None,
    center: str | None = None,
    references: Mapping[str, str | Path] | None = None,
    layout: str = "auto",
    device: str = "auto",
    jobs: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
    leave_out: Sequence[str] = (),
) -> CompletionReport:
    """Fill the missing sequences of one study or of a cohort, or align it to another center.

    Parameters
    ----------
    source : path
        A prepared cohort, one prepared study, a folder of NIfTI studies, or one such study. Never written to.
    out : path
        Folder for the results, one subfolder per subject. Prepared input gives a prepared cohort again; NIfTI input
        gives `.nii.gz` files in the input's own grid and affine, beside byte-for-byte copies of the acquired ones.
    model : path, Model or TrainedModel, optional
        File exported by `ummgat train`, or a model that was read already. Default: the bundled one.
    request : Request, optional
        What to generate, and how. Default: all that is missing, from the best source.
    center : str, optional
        Center of the study, one that the model knows. Needed for plain NIfTI if the model has several; for a prepared
        cohort it replaces the recorded one, and the sidecar says so. A model of a single center takes every study for
        that one's.
    references : mapping of sequence → NIfTI file, optional
        For `Request(mode="reference")`.
    layout : str
        Of plain NIfTI folders, see `intake.layouts`.
    device : str
        `auto` (a GPU if there is one), `cpu`, `cuda` or `mps`; of a model that was read already, its own counts.
    jobs : int
        Worker processes; the result does not depend on it. Each holds the model, so on a GPU one is best.
    overwrite : bool
        Replace results that exist already. Without it, a result that this very call would make again is left as it is
        (`up_to_date` of the report), and another one is a failure of its study.
    progress : callable, optional
        (studies finished, studies in all, subject).
    leave_out : sequence of str
        Names or patterns of files beside the acquired ones that are none of the missing sequences. Without, a sequence
        that a file may be whose name is not understood is not generated: its study fails, and the message names the
        file.

    Returns
    -------
    CompletionReport

    Raises
    ------
    FileNotFoundError, ValueError
        For what concerns the whole call. Problems of one study go into the report.
    OSError
        The disk is full. Finished studies stay.

    Examples
    --------
    >>> import ummgat
    >>> report = ummgat.complete("cohort", "completed", center="A")  # doctest: +SKIP
    >>> report.done, report.failed, report.warnings  # doctest: +SKIP
    """
    source, out, request = Path(source), Path(out), request or Request()
    trained = opened_model(model.trained if isinstance(model, Model) else model, device)
    if not source.is_dir():
        raise FileNotFoundError(f"Input is missing: {source}. Found no folder; expected studies. Check the path.")
    if out.resolve() == source.resolve() or source.resolve() in out.resolve().parents:
        raise ValueError(
            f"Output lies in the input: {out}. Found it inside {source}; expected another place. Choose one."
        )
    given, center = center, center or trained.only_center
    codes = _reference_codes(trained, references or {}, request.align_to or center)
    studies = named(_find(source, layout), lambda study: study.subject)
    for subject in studies:
        if source.resolve().is_relative_to((out / subject).resolve()):
            raise ValueError(
                f"Output would replace the input: {out}. Found {source} where the result of {subject} would go; "
                "expected another place. Choose one."
            )
    told = {"center_given": given} if given else {"center_only_one": center} if center else {}
    model_hash = trained.hash or uuid4().hex  # one that was never in a file: nothing can be known to be made by it
    common = [_ALGORITHM, model_hash, asdict(request), center, stamps(map(Path, (references or {}).values()))]
    common += [sorted(leave_out)] if leave_out else []
    report, warnings, marks, todo = CompletionReport(), {}, {}, {}
    for subject, study in studies.items():
        try:
            marks[subject] = fingerprint(common, sorted(references or {}), made_from(study))
            before = up_to_date(out / subject, marks[subject], overwrite)
        except (ValueError, OSError) as error:
            report.failed[subject] = reason(error)
            continue
        if before is None:
            todo[subject] = study
        else:
            report.up_to_date.append(subject)
            warnings[subject] = before
    remove_leftovers(out)
    order = _Order(trained, out, request, center, told, codes, tuple(leave_out), marks)
    now = each(_complete_one, todo, order, jobs=jobs, progress=progress)
    report.done = {subject: files for subject, (files, _) in now.done.items()}
    warnings |= {subject: said for subject, (_, said) in now.done.items()}
    failed = report.failed | now.failed
    report.failed = {subject: failed[subject] for subject in studies if subject in failed}
    report.warnings = {subject: warnings[subject] for subject in studies if warnings.get(subject)}
    return report


def made_from(study: Study | RawStudy) -> list[Any]:
    """What a result depends on, of the study. Findings of quality control do not count: they change no voxel."""
    if isinstance(study, RawStudy):
        raw = [sorted(study.images), stamps(study.images[q] for q in sorted(study.images)), study.problems]
        return [*raw, sorted(study.left_out)] if study.left_out else raw
    record = study.record
    names = [*(record.images[q].file for q in study.acquired), record.labels_file, record.brain_mask_file]
    return [
        record.model_dump(
            mode="json", exclude={"checks"} | {name for name in ("left_out", "placements") if not getattr(record, name)}
        ),
        stamps(study.folder / name for name in names if name is not None),
    ]


def _find(source: Path, layout: str) -> Sequence[Study | RawStudy]:
    if (source / "study.json").is_file():
        return [load_study(source)]
    if any(source.glob("*/study.json")):
        return load_cohort(source)
    return find_studies(source, layout)[0]


def _reference_codes(
    model: TrainedModel, references: Mapping[str, str | Path], center: str | None
) -> dict[str, Tensor]:
    codes = {}
    for name, path in references.items():
        sequence = check_sequence(name, "--reference")
        if center is None:
            raise ValueError(
                f"Center of the reference image is unknown: {path}. Found none; expected one of "
                f"{', '.join(model.table.centers)}. Say --center or --align-to."
            )
        _, volumes, _ = prepare_images(
            {sequence: Path(path)}, subject="reference", center=center, spacing_mm=model.config.data.spacing_mm
        )
        codes[sequence] = encode_reference(model, volumes[sequence], Domain(center, sequence))
    return codes


def _complete_one(order: _Order, study: Study | RawStudy) -> tuple[list[str], list[str]]:
    """Write one study; generated files and warnings."""
    folder = inside(order.out, study.subject)
    with explained_full_disk(folder), replaced_folder(folder) as temporary:
        if isinstance(study, RawStudy):
            files, generated = _complete_raw(order, study, temporary)
        else:
            files, generated = _complete_prepared(order, study, temporary)
        warnings = [warning for image in generated for warning in image.warnings]
        warnings += _said_on_the_way_in(study)
        if isinstance(study, Study) and study.record.checks is not None and generated:
            warnings += [f"Found by `ummgat check`: {finding.text}" for finding in study.record.checks.findings]
        write_stamp(temporary, order.marks[study.subject], files, warnings)
    return [f"{folder.name}/{name}" for name in files], warnings


def _complete_prepared(order: _Order, study: Study, folder: Path) -> tuple[list[str], list[Generated]]:
    """Prepared in, prepared out: acquired files as they were, generated ones beside them, all in study.json."""
    model, request = order.model, order.request
    wanted = model.config.data.spacing_mm
    if not np.allclose(study.grid.spacing_mm, wanted, atol=1e-3):
        raise ValueError(
            f"Study was prepared at another voxel size than the model's: {study.folder}. Found {study.grid.spacing_mm} "
            f"mm; expected {wanted} mm. Run `ummgat prepare --spacing {wanted}`, or give the NIfTI folder itself."
        )
    _require_understood(order, study.record.left_out, study.acquired, order.center or study.center, study.subject)
    volumes = {q: np.array(study.volume(q)) for q in study.acquired}
    generated = fill(model, volumes, order.center or study.center, request, order.codes)
    for image in generated:
        image.provenance.update(order.told if order.center != study.center or "center_given" in order.told else {})
        image.provenance.update({"left_out": sorted(study.record.left_out)} if study.record.left_out else {})
    record = study.record.model_copy(deep=True)
    new: dict[str, Array] = {}
    files: list[str] = []
    record.center = request.align_to or record.center
    # What an earlier run generated is not carried on: its files stay where they are.
    record.images = {} if request.align_to else {q: record.images[q] for q in study.acquired}
    for image in generated:
        stem = image_name(image.target, request.align_to)
        record.images[image.target.sequence] = ImageRecord(
            file=f"{stem}.nii",
            kind="fused" if image.provenance["method"] == "fuse" else "generated",
            provenance=image.provenance,
        )
        new[image.target.sequence] = image.volume
        write_json(folder / f"{stem}.json", image.provenance)
        files += [f"{stem}.nii", f"{stem}.json"]
        for name, values in (("reliability", image.reliability), ("enhancement", image.enhancement)):
            if values is not None:
                write_volume(folder / f"{stem}_{name}.nii", np.ascontiguousarray(values).T, study.grid)
                files.append(f"{stem}_{name}.nii")
    kept = [] if request.align_to else [study.record.images[q].file for q in study.acquired]
    also = (study.record.labels_file, study.record.brain_mask_file)
    for name in [*kept, *(name for name in also if name)]:
        study.companion(name)  # refuses what is no volume of this study: whatever it is, it is not passed on
        shutil.copyfile(study.folder / name, folder / name)
    files += write_scanned_space(study, generated, folder, request.align_to)
    write_study(folder, record, new, None)
    return files, generated


def _complete_raw(order: _Order, raw: RawStudy, folder: Path) -> tuple[list[str], list[Generated]]:
    """NIfTI in, NIfTI out: generated images return to the grid and affine of the input."""
    model, request = order.model, order.request
    if raw.problems:
        raise ValueError("\n".join(raw.problems))
    if order.center is None:
        raise ValueError(
            f"Center of the study is unknown: {raw.subject}. Found none; expected one of "
            f"{', '.join(model.table.centers)}. Say --center; it is never guessed."
        )
    _require_understood(order, raw.left_out, raw.images, order.center, raw.subject)
    record, volumes, _ = prepare_images(
        raw.images, subject=raw.subject, center=order.center, spacing_mm=model.config.data.spacing_mm
    )
    generated = fill(model, volumes, order.center, request, order.codes)
    prepared_grid = record.grid.grid()
    files: list[str] = []
    for image in generated:
        stem = f"{raw.subject}_{image_name(image.target, request.align_to)}"
        source_file = raw.images[Domain.parse(image.provenance["sources"][0]).sequence]
        data, original = read_volume(source_file)
        brain = native_brain(data, original, str(source_file))
        provenance = image.provenance | {
            "source_files": [raw.images[Domain.parse(name).sequence].name for name in image.provenance["sources"]],
            **order.told,
            **({"left_out": sorted(raw.left_out)} if raw.left_out else {}),
        }
        files += write_native(
            image, folder, stem, prepared_grid, original, brain, provenance, placement_of(source_file)
        )
    if not request.align_to:
        _carry(raw, folder)
    return files, generated


def _require_understood(
    order: _Order, left_out: Mapping[str, Sequence[str]], acquired: Iterable[str], center: str, subject: str
) -> None:
    """Refuse to generate what may have been acquired: a file that is not understood may be just that."""
    goal = order.request.align_to or center
    known = [domain.sequence for domain in order.model.table if domain.center == goal]
    wanted = set(order.request.targets or known) - set(acquired)
    require_understood(left_out, wanted, order.leave_out, subject)


def _said_on_the_way_in(study: Study | RawStudy) -> list[str]:
    """What to know of the files that were not used."""
    left_out = study.left_out if isinstance(study, RawStudy) else study.record.left_out
    said = [f"Not understood and left out: {', '.join(sorted(left_out))}."] if left_out else []
    if isinstance(study, Study):
        return said
    unlike = {path: disagreement(header_of(path)) for path in study.images.values()}
    return [*said, *study.findings, *(f"{path.name}: {text}." for path, text in unlike.items() if text)]


def _carry(raw: RawStudy, folder: Path) -> None:
    """Copy what was acquired, byte for byte, with what stands beside it; also what was not understood, and the
    annotation.
    """
    home = next(iter(raw.images.values())).parent
    files = [*raw.images.values(), *([raw.labels] if raw.labels else []), *(home / name for name in raw.left_out)]
    for path in files:
        beside = [path.with_name(image_stem(path) + suffix) for suffix in (".json", ".bval", ".bvec")]
        for file in (path, *(other for other in beside if other.is_file())):
            target = folder / file.relative_to(home)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
