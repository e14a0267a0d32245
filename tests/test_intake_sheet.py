"""The sheet: written, corrected by a person, read back strictly; and nothing of a patient in it or beside it."""

import csv
import io
import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("pydicom")

from bad_nifti import brain, contents, save, truncate
from phantom_dicom import NAMED, SECRETS, axes, lopsided
from ummgat.cli import app
from ummgat.intake.convert import convert
from ummgat.intake.privacy import Identity, Key, key_path, redact
from ummgat.intake.scan import scan_folder
from ummgat.intake.sheet import read_sheet, write_sheet
from ummgat.phantom.dicom import write_series

OTHER = {"PatientName": "Else^Any", "PatientID": "X-99-1", "PatientBirthDate": "19800101"}


@pytest.fixture
def disc(tmp_path):
    """DICOM of two patients in folders with their names, and loose NIfTI of a third."""
    folder = tmp_path / "disc 1"
    for series, sequence in enumerate(("t1", "t1ce", "t2", "flair"), 1):
        home = folder / "MÜLLER_JÜRGEN 0815-4711" / f"1961{series}"
        write_series(lopsided(series), axes("axial"), home, NAMED, sequence, series=series)
    for series, sequence in enumerate(("t1", "t2"), 1):
        changes = {"SeriesDescription": f"{sequence} Else", "ProtocolName": "Any, 1.1.1980"} if series == 1 else {}
        write_series(
            lopsided(series), axes("oblique"), folder / f"x{series}", OTHER, sequence, series=series, changes=changes
        )
    save(folder / "third" / "t1.nii.gz", brain())
    return folder


def inspect(folder, out, **options):
    key = Key.read(key_path(out))
    write_sheet(out, scan_folder(folder, key), key, **options)
    return out


def lines(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def rewrite(path, rows, delimiter=",", encoding="utf-8"):
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding=encoding)


def edited(path, change, **how):
    rows = lines(path)
    change(rows)
    rewrite(path, rows, **how)
    return path


# ---------------------------------------------------------------- there and back


def test_an_untouched_sheet_gives_what_is_sure(disc, tmp_path):
    out = inspect(disc, tmp_path / "sheet.csv")
    sheet = read_sheet(out, disc)
    assert {row["subject"] for row in lines(out)} == {"S001", "S002", "third"}
    found = {subject: list(roles) for (subject, _), roles in sheet.studies().items()}
    assert sorted(found.values()) == [["t1"], ["t1", "t1ce", "t2", "flair"], ["t2"]]
    assert found["third"] == ["t1"]
    assert len(sheet.undecided) == 1  # a T1 of which nothing says whether contrast agent was given
    assert sheet.not_used == []


def test_what_the_user_writes_counts(disc, tmp_path):
    out = inspect(disc, tmp_path / "sheet.csv")

    def decide(rows):
        for row in rows:
            row["sequence"] = row["sequence"] or "T1CE"
            row["subject"] = {"third": "Patient drei"}.get(row["subject"], row["subject"])
            if row["sequence"] == "flair":
                row["sequence"] = "none"

    # as a German spreadsheet saves it
    sheet = read_sheet(edited(out, decide, delimiter=";", encoding="utf-8-sig"), disc)
    assert sheet.undecided == []
    assert len(sheet.not_used) == 1
    assert ("Patient drei", "") in sheet.studies()
    assert sorted(len(roles) for roles in sheet.studies().values()) == [1, 2, 3]
    for number, entry in enumerate(sheet.entries):
        assert convert(entry.source, tmp_path / f"{number}.nii").path.is_file()


def test_a_users_label_reaches_the_series(disc, tmp_path):
    out = inspect(disc, tmp_path / "sheet.csv")

    def rename(rows):
        for row in rows:
            row["subject"] = row["subject"].replace("S00", "Mine-")

    sheet = read_sheet(edited(out, rename), disc)
    dicom = [entry for entry in sheet.entries if entry.series.startswith("dicom:")]
    assert {entry.source.subject for entry in dicom} == {"Mine-1", "Mine-2"}
    assert all(entry.source.subject == entry.subject for entry in dicom)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("sequence", "t3", r"line 2: unknown sequence 't3'; expected t1, t1ce, .*, none or nothing"),
        ("series", "dicom:000000000000", r"line 2: dicom:000000000000 is not in the folder"),
        ("series", "gone/t1.nii.gz", r"line 2: gone/t1.nii.gz is not in the folder"),
        ("subject", "../x", r"line 2: Unsafe subject name"),
        ("subject", "", r"line 2: Unsafe subject name"),
        ("session", "a:b", r"line 2: Unsafe session name"),
    ],
)
def test_what_cannot_be_is_refused(disc, tmp_path, column, value, message):
    out = inspect(disc, tmp_path / "sheet.csv")

    def spoil(rows):
        rows[0][column] = value
        rows[0]["sequence"] = "t3" if value == "t3" else "hardi"

    with pytest.raises(ValueError, match=r"Sheet cannot be used: .*Found 1 problem; expected none"):
        read_sheet(edited(out, spoil), disc)
    with pytest.raises(ValueError, match=message):
        read_sheet(out, disc)


def test_all_problems_are_told_at_once(disc, tmp_path):
    out = inspect(disc, tmp_path / "sheet.csv")

    def spoil(rows):
        for row in rows:
            row["sequence"] = "t2"
        rows.append(dict(rows[-1]))
        rows[0]["sequence"] = "x"

    with pytest.raises(ValueError, match="Found 6 problems") as refused:
        read_sheet(edited(out, spoil), disc)
    assert "t2 of S00" in str(refused.value)
    assert "is there twice" in str(refused.value)


def test_two_annotations_of_a_study_are_refused_and_two_sessions_are_not(tmp_path):
    for name in ("p/t1", "p/seg", "p/wt_extra", "p/t1w_2"):
        save(tmp_path / "in" / f"{name}.nii.gz", brain(len(name)))
    out = inspect(tmp_path / "in", tmp_path / "sheet.csv")

    def decide(rows):
        for row, (session, role) in zip(rows, (("a", "seg"), ("a", "t1"), ("b", "t1"), ("a", "wt")), strict=True):
            row["session"], row["sequence"] = session, role

    with pytest.raises(ValueError, match=r"Found 1 problem.*\n.*annotation of p, session a again"):
        read_sheet(edited(out, decide), tmp_path / "in")
    edited(out, lambda rows: rows[3].update(sequence="none"))
    assert set(read_sheet(out, tmp_path / "in").studies()) == {("p", "a"), ("p", "b")}


def test_a_series_that_was_refused_cannot_be_written_in(tmp_path):
    write_series(lopsided(), axes("axial"), tmp_path / "in", sequence="t2", changes={"PixelSpacing": [0, 0]})
    out = inspect(tmp_path / "in", tmp_path / "sheet.csv")
    with pytest.raises(ValueError, match="cannot be used: voxel size missing or zero"):
        read_sheet(edited(out, lambda rows: rows[0].update(sequence="t2")), tmp_path / "in")


def test_files_that_are_no_sheet(disc, tmp_path):
    path = tmp_path / "sheet.csv"
    with pytest.raises(FileNotFoundError, match="Sheet is missing"):
        read_sheet(path, disc)
    path.write_text("subject,sequence\na,t1\n")
    with pytest.raises(ValueError, match="expected also session, series"):
        read_sheet(path, disc)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="Sheet is not CSV"):
        read_sheet(path, disc)
    key_path(inspect(disc, tmp_path / "b.csv")).unlink()
    with pytest.raises(FileNotFoundError, match="Key of the sheet is missing"):
        read_sheet(tmp_path / "b.csv", disc)


def test_corrections_are_never_overwritten_unasked(disc, tmp_path):
    out = inspect(disc, tmp_path / "sheet.csv")
    edited(out, lambda rows: rows[0].update(sequence="none"))
    before = contents(tmp_path)
    with pytest.raises(FileExistsError):
        inspect(disc, out)
    assert contents(tmp_path) == before
    inspect(disc, out, overwrite=True)


# ---------------------------------------------------------------- labels


def test_labels_stay_when_patients_are_added(disc, tmp_path):
    out = inspect(disc, tmp_path / "sheet.csv")
    before = {row["series"]: row["subject"] for row in lines(out)}
    for n in range(5):
        write_series(lopsided(n), axes("axial"), disc / f"new{n}", {"PatientID": f"N{n}"}, "t2")
    inspect(disc, out, overwrite=True)
    after = {row["series"]: row["subject"] for row in lines(out)}
    assert before.items() <= after.items()
    assert {f"S{n:03d}" for n in range(1, 8)} <= set(after.values())


def test_the_key_is_private_and_holds_no_patient(disc, tmp_path):
    key = key_path(inspect(disc, tmp_path / "sheet.csv"))
    if os.name == "posix":
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not any(secret in key.read_text().lower() for secret in SECRETS)
    key.write_text("{}")
    with pytest.raises(ValueError, match="Key of subject labels is not valid"):
        Key.read(key)


@pytest.mark.skipif(os.name != "posix", reason="modes of files are of POSIX")
def test_nobody_else_can_read_the_key_at_any_moment(tmp_path, monkeypatch):
    """Its mode when it takes its name is the one that it keeps."""
    modes = []
    replace = Path.replace

    def watched(path, target):
        modes.append(stat.S_IMODE(path.stat().st_mode))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    Key("00" * 16).write(tmp_path / "sheet.key.json")
    assert modes == [0o600]


def test_labels_do_not_follow_the_order_of_names_or_ids():
    patients = [f"id{n}" for n in range(30)]
    labels = Key("00" * 16).label_all(patients)
    assert sorted(labels.values()) == [f"S{n:03d}" for n in range(1, 31)]
    assert [labels[p] for p in patients] != sorted(labels.values())
    assert Key("01" * 16).label_all(patients) != labels


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("t1_se_tra", "t1_se_tra"),
        ("T1 MULLER", "T1 …"),
        ("t1 (jürgen) nativ", "t1 (…) nativ"),
        ("DOE_JM_t2", "…"),  # the short name is a whole word of it
        ("T2 Mueller", "T2 …"),
        ("T2 xMüllerx", "T2 …"),
        ("adobe", "adobe"),  # and here a part of another
        ("born 03.02.1961", "born …"),
        ("kh 0815 4711", "…"),
        ("x/KH-0815-4711/y", "x/…/y"),
    ],
)
def test_words_that_name_a_patient_are_taken_out(text, shown):
    who = Identity("Müller^Jürgen", "KH-0815-4711", "19610203", ("Doe",))
    assert redact(text, frozenset(who.words())) == shown


# ---------------------------------------------------------------- the command, and what it gives away


def test_inspect_gives_nothing_away(disc, tmp_path, monkeypatch):
    (disc / "MÜLLER_JÜRGEN 0815-4711" / "4711.dcm").write_bytes(b"broken")
    path = next(p for p in (disc / "MÜLLER_JÜRGEN 0815-4711" / "19611").iterdir())
    path.write_bytes(path.read_bytes()[:-40])
    save(disc / "MÜLLER_JÜRGEN 0815-4711" / "t2.nii.gz", brain(3))
    save(disc / "Jürgen flat" / "mueller_t1.nii.gz", brain(4))
    truncate(save(disc / "MÜLLER_JÜRGEN 0815-4711" / "müller t1.nii", brain(5)), 0.5)
    save(disc / "Müller_FU007d_nifti" / "Müller_FU007d_T1_bias.nii.gz", brain(6))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["inspect", "disc 1", "--out", "found/sheet.csv"])
    assert result.exit_code == 0, result.output
    assert "S001" in result.stdout
    assert "truncated" in result.stdout
    shown = result.output + "".join(name + text.decode() for name, text in contents(tmp_path / "found").items())
    for secret in ("else", *SECRETS):
        assert secret not in shown.lower(), secret
    # Its series can be found again nevertheless.
    sheet = read_sheet(tmp_path / "found" / "sheet.csv", disc)
    assert {entry.sequence for entry in sheet.entries} >= {"t1ce", "t2", "flair"}
    assert any(entry.series.startswith("file:") for entry in sheet.entries)
    # Errors about it, and what is converted from it, say nothing either.
    messages = []
    for number, entry in enumerate(sheet.entries):
        done = convert(entry.source, tmp_path / "made" / f"{number}.nii")
        messages.append(str(done))
        with pytest.raises(FileExistsError) as refused:
            convert(entry.source, done.path)
        messages.append(str(refused.value))
    edited(tmp_path / "found" / "sheet.csv", lambda rows: [row.update(sequence="t1") for row in rows])
    with pytest.raises(ValueError, match="problems") as refused:
        read_sheet(tmp_path / "found" / "sheet.csv", disc)
    messages.append(str(refused.value))
    messages += [repr(sheet), repr(scan_folder(disc, Key()))]
    blobs = "\n".join(messages) + "".join(text.decode("latin-1") for text in contents(tmp_path / "made").values())
    for secret in SECRETS:
        assert secret not in blobs.lower(), blobs[max(blobs.lower().find(secret) - 80, 0) :][:200]


def test_paths_are_shown_only_when_asked_for(disc):
    plain = CliRunner().invoke(app, ["inspect", str(disc)])
    asked = CliRunner().invoke(app, ["inspect", str(disc), "--show-paths"])
    assert "MÜLLER" not in plain.output
    assert "MÜLLER" in asked.output


def test_inspect_refuses_in_the_usual_form(tmp_path):
    result = CliRunner().invoke(app, ["inspect", str(tmp_path)])
    assert result.exit_code == 2
    assert "No image found" in result.stderr
