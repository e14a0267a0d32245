"""Complete studies on disk: a prepared cohort or plain NIfTI folders in, the same studies without gaps out.

Inputs are never touched. A study appears under its final name when it is whole; a bad one is reported and skipped.
"""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ummgat.completion.fill import Generated, Request, encode_reference, fill
from ummgat.completion.native import image_name, native_brain, write_native, write_scanned_space
from ummgat.core.domain import Domain, check_sequence
from ummgat.core.files import FULL, explained_full_disk, replaced_folder, write_json
from ummgat.core.study import ImageRecord, Study, load_cohort, load_study, write_study
from ummgat.core.volume import Array, read_volume, write_volume
from ummgat.intake.layouts import RawStudy, find_studies
from ummgat.model.weights import TrainedModel, load_model
from ummgat.prepare.images import prepare_images

log = logging.getLogger(__name__)


@dataclass
class CompletionReport:
    """What `complete` did."""

    done: dict[str, list[str]] = field(default_factory=dict)
    """Subject → generated files, relative to the output folder."""
    failed: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)


def complete(
    source: str | Path,
    out: str | Path,
    model: str | Path | TrainedModel,
    *,
    request: Request | None = None,
    center: str | None = None,
    references: Mapping[str, str | Path] | None = None,
    layout: str = "auto",
    device: str = "cpu",
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> CompletionReport:
    """Fill the missing sequences of one study or of a cohort, or align it to another center.

    Parameters
    ----------
    source : path
        A prepared cohort, one prepared study, a folder of NIfTI studies, or one such study. Never written to.
    out : path
        Folder for the results, one subfolder per subject. Prepared input gives a prepared cohort again; NIfTI input
        gives `.nii.gz` files in the input's own grid and affine, beside byte-for-byte copies of the acquired ones.
    model : path or TrainedModel
        File exported by `ummgat train`.
    request : Request
    center : str, optional
        Center of the study, one that the model knows. Needed for plain NIfTI if the model has several; for a prepared cohort it
        replaces the recorded one, and the sidecar says so. A model of a single center takes every study for that one's.
    references : mapping of sequence → NIfTI file, optional
        For `Request(mode="reference")`.
    layout : str
        Of plain NIfTI folders, see `intake.layouts`.
    device : str
        "cpu", "cuda", "mps".
    overwrite : bool
        Replace results that exist already.
    progress : callable, optional
        (studies finished, studies in all, subject).

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
    >>> report = ummgat.complete("cohort", "completed", "model.safetensors")  # doctest: +SKIP
    """
    source, out, request = Path(source), Path(out), request or Request()
    trained = model if isinstance(model, TrainedModel) else load_model(Path(model), torch.device(device))
    if not source.is_dir():
        raise FileNotFoundError(f"Input is missing: {source}. Found no folder; expected studies. Check the path.")
    if out.resolve() == source.resolve() or source.resolve() in out.resolve().parents:
        raise ValueError(
            f"Output lies in the input: {out}. Found it inside {source}; expected another place. Choose one."
        )
    given, center = center, center or trained.only_center
    codes = _reference_codes(trained, references or {}, request.align_to or center)
    studies = _find(source, layout)
    for study in studies:
        if source.resolve().is_relative_to((out / study.subject).resolve()):
            raise ValueError(
                f"Output would replace the input: {out}. Found {source} where the result of {study.subject} would go; "
                "expected another place. Choose one."
            )
    report = CompletionReport()
    for i, study in enumerate(studies):
        try:
            with explained_full_disk(out / study.subject):
                told = {"center_given": given} if given else {"center_only_one": center} if center else {}
                _complete_one(trained, study, out / study.subject, request, center, told, codes, overwrite, report)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno in FULL:  # stops every study
                raise
            report.failed[study.subject] = str(error)
        if progress is not None:
            progress(i + 1, len(studies), study.subject)
    return report


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


def _complete_one(
    model: TrainedModel,
    study: Study | RawStudy,
    folder: Path,
    request: Request,
    center: str | None,
    told: Mapping[str, str],
    codes: Mapping[str, Tensor],
    overwrite: bool,
    report: CompletionReport,
) -> None:
    if folder.exists() and not overwrite:
        raise FileExistsError(
            f"Result exists already: {folder}. Found a folder; expected none. Move it, or pass --overwrite."
        )
    if isinstance(study, RawStudy):
        files, generated = _complete_raw(model, study, folder, request, center, told, codes)
    else:
        files, generated = _complete_prepared(model, study, folder, request, center, told, codes)
    report.done[study.subject] = files
    for image in generated:
        for warning in image.warnings:
            report.warnings.setdefault(study.subject, []).append(warning)
    if isinstance(study, Study) and study.record.checks is not None and generated:
        doubts = [f"Found by `ummgat check`: {finding.text}" for finding in study.record.checks.findings]
        report.warnings.setdefault(study.subject, []).extend(doubts)


def _complete_prepared(
    model: TrainedModel,
    study: Study,
    folder: Path,
    request: Request,
    center: str | None,
    told: Mapping[str, str],
    codes: Mapping[str, Tensor],
) -> tuple[list[str], list[Generated]]:
    """Prepared in, prepared out: acquired files as they were, generated ones beside them, all in study.json."""
    wanted = model.config.data.spacing_mm
    if not np.allclose(study.grid.spacing_mm, wanted, atol=1e-3):
        raise ValueError(
            f"Study was prepared at another voxel size than the model's: {study.folder}. Found {study.grid.spacing_mm} mm; "
            f"expected {wanted} mm. Run `ummgat prepare --spacing {wanted}`, or give the NIfTI folder itself."
        )
    volumes = {q: np.array(study.volume(q)) for q in study.acquired}
    generated = fill(model, volumes, center or study.center, request, codes)
    for image in generated:
        image.provenance.update(told if center != study.center or "center_given" in told else {})
    record = study.record.model_copy(deep=True)
    new: dict[str, Array] = {}
    files: list[str] = []
    with replaced_folder(folder) as temporary:
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
            write_json(temporary / f"{stem}.json", image.provenance)
            files += [f"{folder.name}/{stem}.nii", f"{folder.name}/{stem}.json"]
            for name, values in (("reliability", image.reliability), ("enhancement", image.enhancement)):
                if values is not None:
                    write_volume(temporary / f"{stem}_{name}.nii", np.ascontiguousarray(values).T, study.grid)
                    files.append(f"{folder.name}/{stem}_{name}.nii")
        kept = [] if request.align_to else [study.record.images[q].file for q in study.acquired]
        also = (study.record.labels_file, study.record.brain_mask_file)
        for name in [*kept, *(name for name in also if name)]:
            shutil.copyfile(study.folder / name, temporary / name)
        back = write_scanned_space(study, generated, temporary, request.align_to)
        files += [f"{folder.name}/{name}" for name in back]
        write_study(temporary, record, new, None)
    return files, generated


def _complete_raw(
    model: TrainedModel,
    raw: RawStudy,
    folder: Path,
    request: Request,
    center: str | None,
    told: Mapping[str, str],
    codes: Mapping[str, Tensor],
) -> tuple[list[str], list[Generated]]:
    """NIfTI in, NIfTI out: generated images return to the grid and affine of the input."""
    if raw.problems:
        raise ValueError("\n".join(raw.problems))
    if center is None:
        raise ValueError(
            f"Center of the study is unknown: {raw.subject}. Found none; expected one of {', '.join(model.table.centers)}. "
            "Say --center; it is never guessed."
        )
    record, volumes, _ = prepare_images(
        raw.images, subject=raw.subject, center=center, spacing_mm=model.config.data.spacing_mm
    )
    generated = fill(model, volumes, center, request, codes)
    prepared_grid = record.grid.grid()
    files: list[str] = []
    with replaced_folder(folder) as temporary:
        for image in generated:
            stem = f"{raw.subject}_{image_name(image.target, request.align_to)}"
            source_file = raw.images[Domain.parse(image.provenance["sources"][0]).sequence]
            data, original = read_volume(source_file)
            brain = native_brain(data, original, source_file)
            provenance = image.provenance | {
                "source_files": [raw.images[Domain.parse(name).sequence].name for name in image.provenance["sources"]],
                **told,
            }
            written = write_native(image, temporary, stem, prepared_grid, original, brain, provenance)
            files += [f"{folder.name}/{name}" for name in written]
        if not request.align_to:
            for path in raw.images.values():
                shutil.copyfile(path, temporary / path.name)
    return files, generated
