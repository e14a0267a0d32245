"""Which file of a raw folder is which sequence. One `find_*` function and one `LAYOUTS` line per layout.

The only place in UMMGAT where file spellings and foreign label numbers are known. A file whose meaning is
unclear is never guessed: unknown names are listed as ignored, ambiguous ones fail their study.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ummgat.core.domain import SEQUENCES
from ummgat.intake.left_out import may_be, others_below
from ummgat.intake.lenient import lenient_json, says_generated
from ummgat.intake.propose import no_sequence, says_other
from ummgat.intake.sidecars import read_sidecar

Regions = Literal["multi", "wt", "unsaid"]

LABELS_2018 = {1: "NCR", 2: "ED", 4: "ET"}
"""BraTS 2017 to 2020. Source: Bakas et al. 2018."""

LABELS_2023 = {1: "NCR", 2: "ED", 3: "ET"}
"""BraTS 2023 GLI and MEN."""

LABELS_UCSF = LABELS_2018
"""UCSF-PDGM. Source: made for BraTS 2021 (Calabrese et al. 2022), whose numbers are those of 2018."""

LABELS_EITHER = {1: "NCR", 2: "ED", 3: "ET"}
"""Plain folders: 4 is enhancing tumour in BraTS to 2020 and a cavity in annotations after treatment, so it is asked
about."""

NUMBERINGS = {"brats2018": LABELS_2018, "brats2023": LABELS_2023}
"""What `prepare --label-numbers` may say of plain folders and sheets."""

LABELS_WT = {1: "ED", 255: "ED"}
"""One binary whole-tumour mask."""

_SPELLINGS = {
    **{name: name for name in SEQUENCES},
    **dict.fromkeys(("t1w", "t1n"), "t1"),
    **dict.fromkeys(("t1c", "t1gd", "t1post", "t1wce", "t1wgd", "t1wpost"), "t1ce"),
    "t2w": "t2",
    **dict.fromkeys(("fla", "t2f", "t2flair", "t2wflair"), "flair"),
    **dict.fromkeys(("seg", "label", "labels"), "seg"),
    **dict.fromkeys(("wt", "lesionmask", "tumormask", "tumourmask", "masklesion", "masktumor", "masktumour"), "wt"),
}
_UCSF_FOLDER = "_nifti"
_UCSF_NAMES = {
    "T1": "t1",
    "T1c": "t1ce",
    "T2": "t2",
    "FLAIR": "flair",
    "SWI": "swi",
    "DWI": "dwi",
    "ASL": "asl",
    "DTI_eddy_FA": "hardi",
    "tumor_segmentation": "seg",
}
_UCSF_FILE = re.compile(rf".+?_({'|'.join(_UCSF_NAMES)})(_bias)?")
_UCSF_FOLLOW_UP = re.compile(r"(.+)_FU\d+d")
_CONTRAST = {"c", "ce", "gd", "gad", "gadolinium", "gadovist", "contrast", "post", "postcontrast", "km"}
_SOFTWARE = {
    *(
        "pred",
        "prediction",
        "predicted",
        "auto",
        "automatic",
        "nnunet",
        "monai",
        "synthseg",
        "fastsurfer",
        "freesurfer",
    ),
    *("aseg", "aparc", "hdbet", "hdglio", "deepmedic", "samseg", "totalsegmentator", "brainles", "inference"),
}
_NOT_ACQUIRED = ("_generated", "_copied", "_fused")
_SIDECAR_LIMIT = 4_000_000
_SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)

Classify = Callable[[str, str], str | None]
"""(subject, file stem) → a sequence, "seg", "wt", or None for a file to ignore. ValueError if ambiguous."""


@dataclass
class RawStudy:
    """The files of one study before preparation. `problems` fail it; `findings` do not."""

    subject: str
    images: dict[str, Path] = field(default_factory=dict)
    """Sequence → file, in the order of `SEQUENCES`."""
    labels: Path | None = None
    label_table: dict[int, str] = field(default_factory=dict)
    """Number in the file → name in `study.LABELS`."""
    labels_regions: Regions = "multi"
    ignored: list[str] = field(default_factory=list)
    """Names of NIfTI files that are not used."""
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Image file that is not understood, relative to the folder → sequences it may show, see `left_out`."""
    problems: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    brain_mask: Path | None = None
    """On the grid of one of the images; None looks for the brain."""
    packed: "Packed | None" = None
    """The images are in another form, as DICOM is: `images` then names files that are still to be made."""


@dataclass(frozen=True)
class Packed:
    """Images that become NIfTI only when their study is prepared."""

    unpack: Callable[[Path], RawStudy]
    """Writes them into a folder and returns the study that names them. Picklable, for worker processes."""
    stamp: tuple[tuple[str | int, ...], ...]
    """What tells whether they have changed: names, sizes and times of their files, for a fingerprint."""
    origins: dict[str, str]
    """Sequence → what it was made from, without anything of the patient."""


def find_brats2018(source: Path) -> list[RawStudy]:
    """`<S>/<S>_t1.nii[.gz]`, t1ce, t2, flair, seg (BraTS 2017–2020), also one folder deeper (HGG/, LGG/)."""
    return [_collect(folder, _prefixed("_"), LABELS_2018, "multi") for folder in _image_folders(source, depth=2)]


def find_brats2023(source: Path) -> list[RawStudy]:
    """`<S>/<S>-t1n.nii.gz`, t1c, t2w, t2f, seg (BraTS 2023 GLI and MEN), also one folder deeper."""
    return [_collect(folder, _prefixed("-"), LABELS_2023, "multi") for folder in _image_folders(source, depth=2)]


def find_ucsf_pdgm(source: Path) -> list[RawStudy]:
    """`<S>_nifti/<S>_T1_bias.nii.gz`, T1c, T2, FLAIR, SWI, DWI (each with or without _bias), ASL, DTI_eddy_FA,
    tumor_segmentation.

    Of two files the bias-corrected one is taken, and a missing correction is a finding. `hardi` is the fractional
    anisotropy fitted to the 55 directions: the paper says that HARDI shows anisotropy but not which map it used, the
    raw series (DTI_eddy_noreg) is 4-D and not registered. A follow-up exam (`…_FU007d`) fails: with it one patient
    would be two subjects, and might be trained on and tested. Source: names as in listings of version 3 to 5 of doi
    10.7937/tcia.bdgf-8v37 in public repositories; no file of it was seen here.
    """
    folders = [f for f in _image_folders(source, depth=2) if f.name.endswith(_UCSF_FOLDER)]
    return [_collect_ucsf(folder) for folder in folders]


def find_folder(source: Path) -> list[RawStudy]:
    """One folder per subject with freely named files: `t1.nii.gz`, `x_T1w.nii`, `x_t2_flair.nii.gz`, `wt.nii.gz`."""
    return [_collect(folder, classify_freely, LABELS_EITHER, "unsaid") for folder in _image_folders(source, depth=1)]


LAYOUTS: dict[str, Callable[[Path], list[RawStudy]]] = {
    "brats2018": find_brats2018,
    "brats2023": find_brats2023,
    "ucsf-pdgm": find_ucsf_pdgm,
    "folder": find_folder,
}
"""Layout name → finder. `folder` is the least specific, so `auto` tries it only if nothing else fits."""


def find_studies(source: Path, layout: str = "auto") -> tuple[list[RawStudy], str]:
    """Find every study below `source`.

    Parameters
    ----------
    source : Path
        Holds one folder per subject, or is itself the folder of one subject.
    layout : str
        A `LAYOUTS` name, or `auto`: the one layout that recognises images.

    Returns
    -------
    studies : list of RawStudy
        Sorted by subject. A folder with NIfTI files of which none is recognised is listed with its problem.
    layout : str
        The layout used.

    Raises
    ------
    FileNotFoundError, ValueError
        No such folder, no NIfTI files in subject folders, several or no layouts fit, a subject found twice.
    """
    source = Path(source).resolve()  # "." has no name, and the folder's name is the subject
    if not source.is_dir():
        raise FileNotFoundError(f"Source folder is missing: {source}. Found no folder; expected one. Check the path.")
    if layout == "auto":
        special = [name for name in LAYOUTS if name != "folder" and _fits(LAYOUTS[name](source))]
        fitting = special or [name for name in ("folder",) if _fits(LAYOUTS[name](source))]
        if len(fitting) > 1:
            raise ValueError(
                f"Layout is not clear: {source}. Found studies that fit {', '.join(fitting)}; expected one layout. "
                "Choose with --layout, and prepare the others in a second call into the same output."
            )
        if not fitting:
            raise ValueError(_nothing_found(source))
        layout = fitting[0]
    studies = LAYOUTS[layout](source)
    if not studies:
        raise ValueError(_nothing_found(source))
    _check_distinct(studies, source)
    return sorted(studies, key=lambda study: study.subject), layout


def recognise(folder: Path) -> tuple[RawStudy, str] | None:
    """Read the one study whose files lie directly in `folder`, and the layout; None unless exactly one strict layout
    fits.

    `folder`, the free layout, is no layout to recognise anything by.
    """
    found = [(_collect(folder, _prefixed("_"), LABELS_2018, "multi"), "brats2018")]
    found.append((_collect(folder, _prefixed("-"), LABELS_2023, "multi"), "brats2023"))
    if folder.name.endswith(_UCSF_FOLDER):
        found.append((_collect_ucsf(folder), "ucsf-pdgm"))
    fitting = [(study, layout) for study, layout in found if study.images]
    return fitting[0] if len(fitting) == 1 else None


def find_study(folder: Path, layout: str = "auto") -> RawStudy:
    """Read the one study in `folder`; ValueError if it holds several. For completing a single plain folder."""
    studies, _ = find_studies(folder, layout)
    if len(studies) != 1:
        raise ValueError(
            f"Folder holds several studies: {folder}. Found {', '.join(study.subject for study in studies[:5])}; "
            f"expected the images of one subject. Give one of these folders."
        )
    return studies[0]


def sequence_of(name: str) -> str | None:
    """Sequence that a name spells by itself, whatever its case and separators; None if it is unknown.

    Examples
    --------
    >>> sequence_of("T1-Gd"), sequence_of("T2 FLAIR"), sequence_of("ADC"), sequence_of("mask")
    ('t1ce', 'flair', None, None)
    """
    found = _SPELLINGS.get(re.sub(r"[^a-z0-9]", "", name.lower()))
    return found if found in SEQUENCES else None


def _fits(studies: list[RawStudy]) -> bool:
    return any(study.images for study in studies)


def _nothing_found(source: Path) -> str:
    return (
        f"No study recognised: {source}. Found no folder with images of known names; expected one folder per subject "
        f"with files named as in one of the layouts {', '.join(LAYOUTS)}. Rename the files, or name the layout with "
        f"--layout."
    )


def _check_distinct(studies: list[RawStudy], source: Path) -> None:
    names = [study.subject for study in studies]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(
            f"Subjects occur twice: {source}. Found {', '.join(repeated)} in more than one folder; expected distinct "
            "subject names. Rename or remove the repeats."
        )


def _image_folders(source: Path, depth: int) -> list[Path]:
    """Visible folders at most `depth` below `source` that hold NIfTI files; if there are none, `source` if it does."""
    found = []
    for folder in sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if _holds_images(folder):
            found.append(folder)
        elif depth > 1:
            found += _image_folders(folder, depth - 1)
    return found or ([source] if _holds_images(source) else [])


def _holds_images(folder: Path) -> bool:
    return any(_SUFFIX.search(path.name) for path in folder.iterdir())


def _collect(
    folder: Path, classify: Classify, table: dict[int, str], regions: Regions, subject: str | None = None
) -> RawStudy:
    """Sort the NIfTI files of one folder by what `classify` makes of their names. The folder's name is the subject's if
    not told.
    """
    study = RawStudy(subject or folder.name, label_table=table, labels_regions=regions)
    if (folder / "study.json").is_file():
        study.problems.append(
            f"Folder is prepared already: {folder}. Found a study.json; expected raw images. "
            "Give the folder with the original files."
        )
        return study
    by_meaning: dict[str, list[Path]] = {}
    for path in sorted(
        path for path in folder.iterdir() if _SUFFIX.search(path.name) and not path.name.startswith(".")
    ):
        reason = not_acquired(path)
        if reason:
            study.ignored.append(path.name)
            study.findings.append(
                f"{path.name} is ignored: {reason}, and only acquired images may train or be a source."
            )
            if origin_unknown(path):
                study.left_out[path.name] = may_be(_SUFFIX.sub("", path.name))
            continue
        try:
            meaning = classify(folder.name, _SUFFIX.sub("", path.name))
        except ValueError as error:
            study.problems.append(f"File name is ambiguous: {path}. {error}")
            continue
        other = no_sequence(read_sidecar(path)[0]) if meaning in SEQUENCES else None
        if other is not None:
            study.ignored.append(path.name)
            study.left_out[path.name] = ()
            study.findings.append(f"{path.name} is ignored: its sidecar speaks of {other}.")
        elif meaning is None:
            study.ignored.append(path.name)
            study.left_out[path.name] = may_be(_without(folder.name, _SUFFIX.sub("", path.name)))
            doubtful = no_annotation(_without(folder.name, _SUFFIX.sub("", path.name)))
            if doubtful:
                study.findings.append(
                    f"{path.name} is not used: {doubtful}. Call it seg.nii.gz or wt.nii.gz if a person annotated a "
                    f"lesion in it."
                )
        else:
            by_meaning.setdefault(meaning, []).append(path)
    annotations = [*by_meaning.pop("seg", []), *by_meaning.pop("wt", [])]
    for meaning, paths in [*by_meaning.items(), ("annotation", annotations)]:
        if len(paths) > 1:
            study.problems.append(
                f"Two files for one {'sequence' if meaning in SEQUENCES else 'study'}: {folder}. Found "
                f"{' and '.join(path.name for path in paths)} for {meaning}; expected one file. Move the others away."
            )
    read = [path for path in folder.iterdir() if _SUFFIX.search(path.name)]
    study.left_out |= others_below(folder, read)
    study.images = {sequence: by_meaning[sequence][0] for sequence in SEQUENCES if sequence in by_meaning}
    if annotations:
        study.labels = annotations[0]
        if classify(folder.name, _SUFFIX.sub("", study.labels.name)) == "wt":
            study.label_table, study.labels_regions = LABELS_WT, "wt"
    if not study.images and not study.problems:
        study.problems.append(
            f"No image recognised: {folder}. Found {', '.join(study.ignored) or 'only an annotation'}; expected file "
            f"names of this layout. Rename the files, or prepare this folder with another --layout."
        )
    return study


def _collect_ucsf(folder: Path) -> RawStudy:
    """Sort one folder of UCSF-PDGM. File names are read from their end: in some releases their number has other
    digits.
    """
    files = [_of_ucsf(_SUFFIX.sub("", path.name)) for path in folder.iterdir() if _SUFFIX.search(path.name)]
    corrected = {name for name, bias in files if bias}

    def classify(_: str, stem: str) -> str | None:
        name, bias = _of_ucsf(stem)
        return None if name in corrected and not bias else _UCSF_NAMES.get(name)

    study = _collect(folder, classify, LABELS_UCSF, "multi", folder.name.removesuffix(_UCSF_FOLDER))
    # Perfusion and anisotropy are computed values: there is no coil shading to correct.
    uncorrected = {_UCSF_NAMES[name] for name, _ in files if name in _UCSF_NAMES and name not in corrected}
    plain = [q for q in study.images if q in uncorrected - {"asl", "hardi"}]
    if plain:
        study.findings.append(f"not bias-corrected, as there is no _bias file: {', '.join(plain)}")
    first = _UCSF_FOLLOW_UP.fullmatch(study.subject)
    if first:
        study.problems.append(
            f"Second exam of one patient: {folder}. Found a follow-up of {first[1]}; expected one study per patient, "
            f"or one might be trained on and tested. Leave it out by moving the folder away."
        )
    return study


def _of_ucsf(stem: str) -> tuple[str, bool]:
    """Name of a file in `_UCSF_NAMES`, empty for others, and whether it is bias-corrected."""
    match = _UCSF_FILE.fullmatch(stem)
    return (match[1], match[2] is not None) if match else ("", False)


def _prefixed(separator: str) -> Classify:
    """Strict naming: subject, separator, one known spelling."""

    def classify(subject: str, stem: str) -> str | None:
        prefix = subject + separator
        if not stem.lower().startswith(prefix.lower()):
            return None
        return _SPELLINGS.get(stem[len(prefix) :].lower())

    return classify


def classify_freely(subject: str, stem: str) -> str | None:
    """Meaning of a freely named file: the known spelling among the words of `stem`, after the subject's name.

    Two neighbouring words may form one spelling (`t2_flair`, `T1-post`). A name that says that the image is something
    else, as `T2_star`, `T1_map` or `part-phase`, is none of the sequences whose letters are in it.

    Raises
    ------
    ValueError
        If the words name two sequences, or a sequence and an annotation (`flair_in_t1`, `t1_mask`), or mention a
        contrast agent away from `t1`.

    Examples
    --------
    >>> classify_freely("p7", "p7_T2-FLAIR_brain"), classify_freely("p7", "t1_brain_mask"), classify_freely("p7", "adc")
    ('flair', None, None)
    """
    rest = _without(subject, stem)
    words = [word for word in re.split(r"[^a-z0-9]+", rest.lower()) if word]
    meanings: list[str] = []
    contrast = False
    i = 0
    while i < len(words):
        pair = "".join(words[i : i + 2])
        if pair != words[i] and pair in _SPELLINGS:
            meanings.append(_SPELLINGS[pair])
            i += 2
            continue
        if words[i] in _SPELLINGS:
            meanings.append(_SPELLINGS[words[i]])
        contrast = contrast or words[i] in _CONTRAST
        i += 1
    if any(meaning in SEQUENCES for meaning in meanings) and other_image(rest):
        return None
    if "wt" in meanings and "brain" in words:
        return None  # a brain mask, which skull-stripping tools leave behind, is no annotation
    if "mask" in words and "wt" not in meanings:
        if "brain" in words:
            return None
        meanings += ["mask"] if meanings else []
    if len(set(meanings)) > 1 or (contrast and "t1" in meanings):
        found = ", ".join(dict.fromkeys(meanings)) + (" and a contrast agent" if contrast else "")
        raise ValueError(
            f"Found words for {found}; expected one sequence or annotation. Rename the file, for example t1ce.nii.gz."
        )
    if meanings and meanings[0] not in SEQUENCES and _SOFTWARE & set(words):
        return None
    return meanings[0] if meanings else None


def no_annotation(stem: str) -> str | None:
    """Why a file whose name speaks of a mask or labels is not taken as an annotation; None for other names.

    Examples
    --------
    >>> no_annotation("p1-mask"), no_annotation("t1_brain_mask"), no_annotation("seg_nnunet")[:24]
    ('it does not say whether it masks the brain or a lesion', None, 'its name says that softw')
    """
    words = {word for word in re.split(r"[^a-z0-9]+", stem.lower()) if word}
    if _SOFTWARE & words and words & {"seg", "label", "labels", "mask", "wt"}:
        return "its name says that software made it, which is no annotation"
    if "mask" in words and "brain" not in words:
        return "it does not say whether it masks the brain or a lesion"
    return None


def other_image(name: str) -> str | None:
    """What a file's name says an image is that is none of the sequences; None if it says nothing of the kind.

    The labels that BIDS puts before (`sub-01`, `dir-AP`) are no words: `sub` alone means a subtraction, `dir` double
    inversion.

    Examples
    --------
    >>> other_image("sub-1_dir-AP_T2w"), other_image("T2_GRE"), other_image("t1_sub")
    (None, 'T2*', 'subtraction')
    """
    text = re.sub(r"(?<![a-z])(sub|ses|dir|acq|run|rec)-[a-z0-9]+", " ", name.lower())
    return says_other(re.sub(r"[_.:,;()\[\]]+", " ", text))


def not_acquired(path: Path) -> str | None:
    """Why this file must not be taken as acquired; None if nothing says so."""
    stem = _SUFFIX.sub("", path.name)
    for mark in _NOT_ACQUIRED:
        if mark in stem.lower():
            return f"its name says {mark[1:]}"
    sidecar = path.with_name(stem + ".json")
    content = _sidecar(path)
    if content is None:
        return None
    try:
        value = lenient_json(content)
    except ValueError:
        if says_generated(content):
            return f"its sidecar {sidecar.name} says generated"
        return f"its sidecar {sidecar.name} is not readable JSON, so where the image comes from is unknown"
    if isinstance(value, dict) and (
        value.get("kind", "acquired") in ("copied", "generated", "fused") or value.get("generated")
    ):
        return f"its sidecar {sidecar.name} says {value.get('kind', 'generated')}"
    return None


def origin_unknown(path: Path) -> bool:
    """Whether the sidecar of a file is so damaged that it may be an acquired one as well as a generated one."""
    content = _sidecar(path)
    if content is None or says_generated(content):
        return False
    try:
        lenient_json(content)
    except ValueError:
        return True
    return False


def _sidecar(path: Path) -> bytes | None:
    """What stands beside an image, as far as a flag can be in it; None if nothing does."""
    sidecar = path.with_name(_SUFFIX.sub("", path.name) + ".json")
    if not sidecar.is_file():
        return None
    with sidecar.open("rb") as file:
        return file.read(_SIDECAR_LIMIT)


def _without(subject: str, stem: str) -> str:
    """A file's name without the subject's in front, whose letters say nothing of a sequence."""
    return stem[len(subject) :] if stem.lower().startswith(subject.lower()) else stem
