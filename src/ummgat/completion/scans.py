"""From studies as scanned to completed ones, in one call: prepare them raw, check them, then fill them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ummgat.check.cohort import CheckReport
from ummgat.check.prepared import prepare_and_check
from ummgat.completion.cohort import CompletionReport, complete
from ummgat.completion.fill import Request
from ummgat.completion.memory import Model
from ummgat.core.each import Progress
from ummgat.intake.layouts import RawStudy
from ummgat.intake.studies import LAYOUT, studies_of_sheet
from ummgat.model.weights import TrainedModel, opened_model
from ummgat.prepare.cohort import PrepareReport
from ummgat.prepare.settings import PrepareSettings

PREPARED, COMPLETED = "prepared", "completed"
"""Folders of the output."""


@dataclass
class ScansReport:
    """What `complete_scans` did."""

    prepared: PrepareReport
    checked: CheckReport | None = None
    """Findings of quality control, before anything was completed; None if no study was prepared."""
    completed: CompletionReport = field(default_factory=CompletionReport)
    remarks: list[str] = field(default_factory=list)
    """What the sheet leaves open."""

    @property
    def failed(self) -> dict[str, str]:
        """Subject → problem, of any step."""
        unchecked = self.checked.failed if self.checked else {}
        return self.prepared.failed | unchecked | self.completed.failed


def complete_scans(
    source: str | Path,
    out: str | Path,
    model: str | Path | TrainedModel | Model | None = None,
    *,
    center: str | None = None,
    sheet: str | Path | None = None,
    template: str | Path | None = None,
    brain_mask: str | None = None,
    n4: bool = False,
    checks: str | Path | None = None,
    request: Request | None = None,
    layout: str = "auto",
    device: str = "auto",
    jobs: int = 1,
    overwrite: bool = False,
    on_prepared: Progress | None = None,
    on_checked: Progress | None = None,
    on_completed: Progress | None = None,
    leave_out: Sequence[str] = (),
) -> ScansReport:
    """Register, strip and resample studies as scanned, fill their missing sequences, and bring these back to the scans'
    grids.

    Parameters
    ----------
    source : path
        Folder of NIfTI studies as scanned; or, with a sheet, of anything that `ummgat inspect` lists. Never written to.
    out : path
        Gets `prepared/`, a cohort at the model's voxel size, which another run takes up where it stopped; and
        `completed/`: every study complete on one grid, and in its folder `native/` each generated image on the grid of
        its source.
    model : path, Model or TrainedModel, optional
        Default: the bundled one.
    center : str, optional
        Which of the model's centers the scans resemble; never guessed. Needed if the model has several.
    sheet : path, optional
        CSV of `ummgat inspect --out`, as corrected.
    template : path, optional
        Image to register to; default MNI152 in BraTS's field of view.
    brain_mask : str, optional
        Name of a brain mask in every study's folder.
    n4 : bool
        Take shading out.
    checks : path, optional
        File of `ummgat train-checks`; default the bundled ones. What they find of a study is a warning of its
        completion, and stands in its `study.json`: a T1 that may be a T1ce is said before its images are believed.
    request, layout, device, jobs, overwrite, leave_out
        See `ummgat.complete`.
    on_prepared, on_checked, on_completed : callable, optional

    Returns
    -------
    ScansReport
        Problems of single studies are in it; the rest is done.

    Raises
    ------
    FileNotFoundError, ValueError, FileExistsError, OSError
        For what concerns the whole call, see `prepare_and_check` and `complete`.
    """
    source, out = Path(source), Path(out)
    trained = opened_model(model.trained if isinstance(model, Model) else model, device)
    center = center or trained.only_center
    if center not in trained.table.centers:  # said now, and not after an hour of registration
        raise ValueError(
            f"Model does not know the center: --center. Found {center or 'none'}; expected one of "
            f"{', '.join(trained.table.centers)}. Say which of these the scans resemble, or train with this center."
        )
    found: tuple[list[RawStudy], str] | None = None
    remarks: list[str] = []
    if sheet is not None:
        studies, remarks = studies_of_sheet(Path(sheet), source, brain_mask, layout)
        found = (studies, LAYOUT)
    settings = PrepareSettings(
        layout=layout,
        spacing_mm=trained.config.data.spacing_mm,
        raw=True,
        template=None if template is None else Path(template),
        brain_mask=brain_mask,
        n4=n4,
        center=center,
    )
    prepared, checked = prepare_and_check(
        source,
        out / PREPARED,
        settings,
        checks=None if checks is None else Path(checks),
        jobs=jobs,
        overwrite=overwrite,
        found=found,
        on_prepared=on_prepared,
        on_checked=on_checked,
    )
    report = ScansReport(prepared, checked, remarks=remarks)
    if checked is not None:
        report.completed = complete(
            out / PREPARED,
            out / COMPLETED,
            trained,
            request=request,
            device=device,
            jobs=jobs,
            overwrite=overwrite,
            progress=on_completed,
            leave_out=leave_out,
        )
    return report
