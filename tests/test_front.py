"""`ummgat segment` from a folder to masks: what is written, what is never overwritten, and what one bad study does to
the rest.
"""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

import ummgat
from ummgat.cli import app
from ummgat.core.study import LABELS, REGIONS, load_study
from ummgat.core.volume import read_volume
from ummgat.front import networks
from ummgat.front.channels import NEAREST, channels
from ummgat.front.methods import METHOD
from ummgat.front.networks import Foreign, open_segmenter
from ummgat.front.page import GENERATOR
from ummgat.front.record import NOTICE, SegmentationRecord, read_record
from ummgat.segment.train import train_segmenter
from ummgat.segment.unet import SegmenterConfig, load_segmenter, save_segmenter

SEQUENCES = ("t1", "t1ce", "t2")
"""What the miniature model knows of center A."""

INCOMPLETE, FLAIR_ONLY, COMPLETE = "Phantom_A_001", "Phantom_A_004", "Phantom_A_006"


class Bright:
    """Calls what is bright in T1ce enhancing, and what is bright in T2 oedema: an answer that one can work out."""

    sequences = SEQUENCES
    regions = "multi"
    hash = "bright"

    def __call__(self, images):
        labels = np.where(images["t2"] > 180, LABELS["ED"], 0).astype(np.uint8)
        labels[images["t1ce"] > 200] = LABELS["ET"]
        return labels


def bright():
    """What an entry point of another package would name."""
    return Bright()


@pytest.fixture(scope="module")
def own(cohort_studies, tmp_path_factory):
    """File of a small U-Net, trained for a second on the complete subjects but one."""
    config = SegmenterConfig(
        sequences=SEQUENCES, spacing_mm=1, crop=(1, 32, 32), widths=(8, 8, 8, 8, 8), batch=4, iterations=60, lr=1e-2
    )
    full = [s for s in cohort_studies if set(SEQUENCES) <= set(s.sequences) and s.subject != COMPLETE]
    return train_segmenter(config, full, [], tmp_path_factory.mktemp("own") / "segmenter")


@pytest.fixture(scope="module")
def source(phantom, tmp_path_factory):
    """NIfTI of three subjects: a T1, a FLAIR that no network here knows, and all sequences."""
    folder = tmp_path_factory.mktemp("source") / "studies"
    for subject in (INCOMPLETE, FLAIR_ONLY, COMPLETE):
        shutil.copytree(phantom / "studies" / subject, folder / subject)
    return folder


@pytest.fixture(scope="module")
def done(source, own, model_path, tmp_path_factory):
    """The three, segmented by the command; what it printed, and where."""
    out = tmp_path_factory.mktemp("done") / "masks"
    return out, run(source, out, "--segmenter", own, "--model", model_path, "--center", "A")


def run(*arguments):
    """`ummgat segment` in this process."""
    result = CliRunner().invoke(app, ["segment", *map(str, arguments)], env={"COLUMNS": "250"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def rows_of(out):
    with (out / "volumes.csv").open(newline="", encoding="utf-8") as file:
        return {row["subject"]: row for row in csv.DictReader(file)}


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- what comes out


def test_a_bad_study_is_reported_and_the_rest_is_done(done):
    out, result = done
    assert result.exit_code == 1
    assert "2 segmented, 0 up to date, 1 failed" in result.stdout
    assert re.search(rf"{FLAIR_ONLY}: Nothing to segment from: .+ Found flair; expected .+ t1, t1ce, t2", result.stderr)
    assert "Policy for missing sequences: generate, in 1 study." in result.stdout
    rows = rows_of(out)
    assert {s: r["status"] for s, r in rows.items()} == {
        INCOMPLETE: "segmented",
        FLAIR_ONLY: "failed",
        COMPLETE: "segmented",
    }
    assert "Nothing to segment from" in rows[FLAIR_ONLY]["findings"]
    assert not (out / FLAIR_ONLY).exists()


def test_a_mask_lies_on_the_prepared_grid_and_on_that_of_the_scan(done, source):
    out, _ = done
    for subject in (INCOMPLETE, COMPLETE):
        prepared = load_study(out / "prepared" / subject)
        labels, grid = read_volume(out / subject / "labels.nii")
        assert grid == prepared.grid
        scan = nib.load(source / subject / f"{subject}_t1.nii.gz")
        (native,) = (out / subject / "native").iterdir()
        back = nib.load(native)
        np.testing.assert_allclose(back.affine, scan.affine)
        assert back.shape == scan.shape
        assert nib.aff2axcodes(back.affine) == ("L", "P", "S")
        same = (
            nib.as_closest_canonical(back).get_fdata(),
            nib.as_closest_canonical(nib.load(out / subject / "labels.nii")).get_fdata(),
        )
        np.testing.assert_array_equal(*same)  # one spacing: only the order of voxels differs
        assert labels.any()


def test_volumes_are_those_of_the_mask(done):
    out, _ = done
    rows = rows_of(out)
    for subject in (INCOMPLETE, COMPLETE):
        labels, grid = read_volume(out / subject / "labels.nii")
        for region, numbers in REGIONS.items():
            assert float(rows[subject][f"{region.lower()}_ml"]) == pytest.approx(
                np.isin(labels, numbers).sum() * grid.voxel_ml
            )


def test_the_mask_is_what_the_segmenter_says_of_these_channels(done, own, source):
    out, _ = done
    study = load_study(out / "prepared" / INCOMPLETE)
    images = {"t1": np.asarray(study.volume("t1"))}
    for sequence in ("t1ce", "t2"):
        images[sequence] = read_volume(out / INCOMPLETE / f"{sequence}_generated.nii")[0].T
    np.testing.assert_array_equal(load_segmenter(own)(images), read_volume(out / INCOMPLETE / "labels.nii")[0].T)


def test_the_record_says_what_every_channel_was(done):
    out, _ = done
    record = read_record(out / INCOMPLETE)
    assert {q: c.kind for q, c in record.channels.items()} == {"t1": "acquired", "t1ce": "generated", "t2": "generated"}
    assert record.channels["t2"].sources == ["t1"]
    sidecar = json.loads((out / INCOMPLETE / "t2_generated.json").read_text())
    assert sidecar["generated"] is True
    header = nib.load(out / INCOMPLETE / record.channels["t2"].file).header
    assert b"SYNTHETIC" in header["descrip"].item()
    assert any("tumour core and enhancing tumour in the mask mean nothing" in text for text in record.findings)
    assert record.model is not None
    whole = read_record(out / COMPLETE)
    assert {c.kind for c in whole.channels.values()} == {"acquired"}
    assert whole.model is None
    assert not any("mean nothing" in text for text in whole.findings)
    assert not list((out / COMPLETE).glob("*generated*"))


def test_pages_need_no_network_and_mark_what_is_synthetic(done):
    out, _ = done
    page = (out / INCOMPLETE / "index.html").read_text(encoding="utf-8")
    for text in (page, (out / "index.html").read_text(encoding="utf-8")):
        assert "default-src 'none'" in text
        assert not re.search(r"(src|href)=\"(https?:)?//", text)
        assert f'content="{GENERATOR}"' in text
        assert METHOD in text
    assert page.count('<figure class="generated">') == 2
    assert page.count("SYNTHETIC, not a scan") == 2
    assert page.count('<figure class="acquired">') == 1
    assert NOTICE in page
    cohort = (out / "index.html").read_text(encoding="utf-8")
    assert f'href="{COMPLETE}/index.html"' in cohort
    assert f"<b>{FLAIR_ONLY}</b> failed: Nothing to segment from" in cohort


def test_the_preview_shows_three_planes_of_an_acquired_image_with_contours(done):
    from PIL import Image

    from ummgat.front.planes import COLOURS, SIDE

    out, _ = done
    with Image.open(out / INCOMPLETE / "preview.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (SIDE, 3 * SIDE, 3)
    for third in range(3):
        part = pixels[:, third * SIDE : (third + 1) * SIDE]
        assert (part == COLOURS["WT"]).all(-1).any()
    assert (pixels == 0).all(-1).any()


# ---------------------------------------------------------------- again


def test_a_second_run_does_nothing(done, source, own, model_path):
    out, _ = done
    before = contents(out / COMPLETE), (out / "volumes.csv").read_bytes()
    result = run(source, out, "--segmenter", own, "--model", model_path, "--center", "A")
    assert "0 segmented, 2 up to date, 1 failed" in result.stdout
    assert (contents(out / COMPLETE), (out / "volumes.csv").read_bytes()) == before


def test_results_of_other_settings_are_never_overwritten(done, source, own, model_path, tmp_path):
    out = tmp_path / "masks"
    shutil.copytree(done[0], out)
    before = contents(out / INCOMPLETE)
    arguments = (source, out, "--segmenter", own, "--model", model_path, "--center", "A", "--policy", "copy")
    refused = run(*arguments)
    assert refused.exit_code == 1
    assert re.search(rf"{INCOMPLETE}: Result exists already: .+ or pass --overwrite", refused.stderr)
    assert contents(out / INCOMPLETE) == before
    allowed = run(*arguments, "--overwrite")
    assert "2 segmented" in allowed.stdout
    assert read_record(out / INCOMPLETE).of_kind("copied") == ["t1ce", "t2"]


def test_a_mask_of_somebody_else_is_never_overwritten(source, own, tmp_path):
    theirs = tmp_path / "masks" / COMPLETE / "labels.nii"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"by hand")
    report = ummgat.segment(source, tmp_path / "masks", own, policy="empty")
    assert "Result exists already" in report.failed[COMPLETE]
    assert theirs.read_bytes() == b"by hand"
    assert INCOMPLETE in report.done


def test_a_table_of_somebody_else_is_never_overwritten(source, own, tmp_path):
    (tmp_path / "volumes.csv").write_text("patient,volume\n", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"Output holds another file of this name: .*volumes.csv"):
        ummgat.segment(source, tmp_path, own, policy="empty")
    assert (tmp_path / "volumes.csv").read_text(encoding="utf-8") == "patient,volume\n"


# ---------------------------------------------------------------- policies


@pytest.mark.parametrize(("policy", "kinds"), [("empty", "empty"), ("copy", "copied")])
def test_the_policy_decides_what_stands_in(cohort, own, tmp_path, policy, kinds):
    report = ummgat.segment(cohort / INCOMPLETE, tmp_path, own, policy=policy)
    record = report.done[INCOMPLETE]
    assert record.policy == policy
    assert {q: c.kind for q, c in record.channels.items()} == {"t1": "acquired", "t1ce": kinds, "t2": kinds}
    assert record.model is None
    study = load_study(cohort / INCOMPLETE)
    given = {c.sequence: c.volume for c in channels(study, SEQUENCES, policy, None, "A")}
    expected = np.zeros(study.shape, np.uint8) if policy == "empty" else study.volume("t1")
    np.testing.assert_array_equal(given["t2"], expected)
    assert NEAREST["t2"].index("t1") > NEAREST["t2"].index("flair")


def test_an_unknown_policy_and_a_source_in_the_output_are_refused(cohort, own, tmp_path):
    with pytest.raises(
        ValueError, match=r"Unknown policy: --policy. Found 'guess'; expected one of generate, empty, copy"
    ):
        ummgat.segment(cohort, tmp_path, own, policy="guess")
    with pytest.raises(ValueError, match="Output and source overlap"):
        ummgat.segment(cohort, cohort / "masks", own, policy="empty")
    with pytest.raises(ValueError, match=r"Source is prepared already: .* Leave out --raw"):
        ummgat.segment(cohort, tmp_path, own, policy="empty", raw=True)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_does_not_fit_is_said_before_anything_is_prepared(source, own, model_path, tmp_path):
    with pytest.raises(
        ValueError, match=r"Center of the studies is unknown: --center. Found none; expected one of A, B"
    ):
        ummgat.segment(source, tmp_path / "a", own, model=model_path)
    with pytest.raises(ValueError, match=r"does not know the center: --center. Found X; expected one of A, B"):
        ummgat.segment(source, tmp_path / "a", own, model=model_path, center="X")
    coarse, ours = tmp_path / "coarse.safetensors", load_segmenter(own)
    save_segmenter(coarse, replace(ours, config=ours.config.model_copy(update={"spacing_mm": 2.0})))
    with pytest.raises(ValueError, match=r"work at different voxel sizes: .* Found 1 mm and 2 mm"):
        ummgat.segment(source, tmp_path / "a", coarse, model=model_path, center="A")
    assert not (tmp_path / "a").exists()


# ---------------------------------------------------------------- prepared cohorts, and images that were generated
# before


def test_a_prepared_cohort_is_taken_as_it_is(cohort, own, tmp_path):
    report = ummgat.segment(cohort, tmp_path, own, policy="empty")
    assert sorted(report.done) == sorted(s.name for s in cohort.iterdir() if s.is_dir() and s.name != FLAIR_ONLY)
    assert list(report.failed) == [FLAIR_ONLY]
    assert not (tmp_path / "prepared").exists()
    assert report.done["Phantom_B_003"].center == "B"


def test_images_generated_before_stay_marked(cohort, own, model_path, tmp_path):
    ummgat.complete(cohort / INCOMPLETE, tmp_path / "completed", model_path, device="cpu")
    report = ummgat.segment(tmp_path / "completed", tmp_path / "masks", own, model=model_path)
    record = report.done[INCOMPLETE]
    assert record.of_kind("generated") == ["t1ce", "t2"]
    direct = ummgat.segment(cohort / INCOMPLETE, tmp_path / "direct", own, model=model_path)
    assert direct.done[INCOMPLETE].volumes_ml == record.volumes_ml


# ---------------------------------------------------------------- segmenters


def test_a_python_segmenter_can_be_given_in_hand(cohort, tmp_path):
    report = ummgat.segment(cohort / COMPLETE, tmp_path, Bright())
    study = load_study(cohort / COMPLETE)
    expected = Bright()({q: np.asarray(study.volume(q)) for q in SEQUENCES})
    np.testing.assert_array_equal(read_volume(tmp_path / COMPLETE / "labels.nii")[0].T, expected)
    assert report.done[COMPLETE].segmenter.file == "in memory"
    assert report.done[COMPLETE].segmenter.hash == "bright"


def test_an_installed_segmenter_is_found_by_its_name(cohort, tmp_path, monkeypatch):
    from importlib.metadata import EntryPoint

    point = EntryPoint("bright", "test_front:bright", networks.GROUP)
    monkeypatch.setattr(networks, "entry_points", lambda group: [point] if group == networks.GROUP else [])
    result = run(cohort / COMPLETE, tmp_path / "a", "--segmenter", "bright", "--policy", "empty")
    assert result.exit_code == 0, result.stderr
    assert read_record(tmp_path / "a" / COMPLETE).segmenter.file == "bright"
    missing = run(cohort / COMPLETE, tmp_path / "b", "--segmenter", "dark", "--policy", "empty")
    assert missing.exit_code == 2
    assert "Segmenter is missing: dark" in missing.stderr


def test_a_foreign_segmenter_needs_trust_and_runs_in_its_own_process(cohort, tmp_path):
    from test_foreign import SAID, onnx_file

    said = SAID | {"spacing_mm": 1, "sequences": ["t1ce", "t2"]}
    path = onnx_file(tmp_path / "net.onnx", ("z", "y", "x"), said=said)
    arguments = (cohort / COMPLETE, tmp_path / "masks", "--segmenter", path, "--policy", "empty")
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert "Segmenter is not trusted" in refused.stderr
    result = run(*arguments, "--trust")
    assert result.exit_code == 0, result.stderr
    study = load_study(cohort / COMPLETE)
    a, b = (np.asarray(study.volume(q)).astype(np.float32) / 255 for q in ("t1ce", "t2"))
    expected = np.stack([np.full_like(a, 0.5), a, b, a + b - 1]).argmax(0)
    np.testing.assert_array_equal(read_volume(tmp_path / "masks" / COMPLETE / "labels.nii")[0].T, expected)


def test_folds_give_every_subject_the_network_that_never_saw_it(cohort, own, tmp_path):
    ours = load_segmenter(own)
    for fold, held in enumerate((COMPLETE, INCOMPLETE), start=1):
        training = ours.training | {"held_out": [held], "folds": 2, "fold": fold}
        path = tmp_path / "folds" / f"fold{fold}" / "segmenter.safetensors"
        path.parent.mkdir(parents=True)
        save_segmenter(path, replace(ours, training=training))
    folder = tmp_path / "in"
    for subject in (COMPLETE, "Phantom_A_005"):
        shutil.copytree(cohort / subject, folder / subject)
    report = ummgat.segment(folder, tmp_path / "masks", tmp_path / "folds", policy="empty")
    assert list(report.done) == [COMPLETE]
    assert "Subject was not held back by exactly one fold: Phantom_A_005" in report.failed["Phantom_A_005"]


def test_a_segmenter_that_answers_nonsense_fails_its_study_only(cohort, tmp_path):
    class Odd(Bright):
        def __call__(self, images):
            labels = super().__call__(images)
            return labels[1:] if images["t1"].any() and not images["t1ce"].any() else labels

    folder = tmp_path / "in"
    for subject in (COMPLETE, INCOMPLETE):
        shutil.copytree(cohort / subject, folder / subject)
    report = ummgat.segment(folder, tmp_path / "masks", Odd(), policy="empty")
    assert list(report.done) == [COMPLETE]
    assert "Segmenter answers on another grid" in report.failed[INCOMPLETE]


def test_the_default_segmenter_follows_the_policy():
    import torch

    for policy, name in (("generate", "segmenter.safetensors"), ("empty", "segmenter_dropout.safetensors")):
        _, told = open_segmenter(None, policy, 2.0, Foreign(), torch.device("cpu"))
        assert told.file == name


# ---------------------------------------------------------------- in memory


def test_memory_gives_what_the_disk_gives(source, own, model_path, done):
    out, _ = done
    image = nib.load(source / INCOMPLETE / f"{INCOMPLETE}_t1.nii.gz")
    found = ummgat.segment_images({"t1": image}, own, model=model_path, center="A", device="cpu")
    record = read_record(out / INCOMPLETE)
    assert found.volumes_ml == record.volumes_ml
    assert found.channels == {q: c.kind for q, c in record.channels.items()}
    on_disk = nib.load(out / INCOMPLETE / record.native_files["study"])
    np.testing.assert_array_equal(np.asarray(found.labels.dataobj), np.asarray(on_disk.dataobj))
    np.testing.assert_array_equal(found.labels.affine, on_disk.affine)
    assert list(found.generated) == ["t1ce", "t2"]
    assert all(b"SYNTHETIC" in image.header["descrip"].item() for image in found.generated.values())
    assert all(image.shape == found.labels.shape for image in found.generated.values())
    assert [f for f in record.findings if "generated" in f] == [f for f in found.findings if "generated" in f]


def test_memory_refuses_what_the_disk_refuses(source, own, model_path):
    image = nib.load(source / INCOMPLETE / f"{INCOMPLETE}_t1.nii.gz")
    with pytest.raises(ValueError, match="Center of the studies is unknown"):
        ummgat.segment_images({"t1": image}, own, model=model_path)
    with pytest.raises(ValueError, match="Unknown policy"):
        ummgat.segment_images({"t1": image}, own, policy="guess")
    with pytest.raises(ValueError, match=r"Nothing to segment from: in memory. Found flair"):
        ummgat.segment_images({"flair": image}, own, policy="empty")


# ---------------------------------------------------------------- records


def test_a_damaged_record_is_reported_and_the_table_is_still_written(done, source, own, model_path, tmp_path):
    out = tmp_path / "masks"
    shutil.copytree(done[0], out)
    (out / COMPLETE / "segmentation.json").write_text("{}", encoding="utf-8")
    result = run(source, out, "--segmenter", own, "--model", model_path, "--center", "A")
    assert result.exit_code == 1
    assert f"{COMPLETE}: Sidecar is not valid" in result.stderr
    assert rows_of(out)[INCOMPLETE]["status"] == "segmented"


def test_a_record_reads_back_as_it_was_written(done):
    out, _ = done
    path = out / INCOMPLETE / "segmentation.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    assert SegmentationRecord.model_validate(value).model_dump(mode="json") == value
    assert Path(value["labels_file"]) == Path("labels.nii")
