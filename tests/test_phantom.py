import hashlib
import inspect
import json
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from ummgat.core.domain import SEQUENCES
from ummgat.core.machine import template_file
from ummgat.core.study import LABELS
from ummgat.core.volume import read_volume
from ummgat.phantom import (
    DEMO,
    TINY,
    PhantomConfig,
    analytic_frame,
    brats_frame,
    make_scanner,
    make_subject,
    tiny_cohort,
    write_phantom,
)
from ummgat.phantom.anatomy import Mass, Shape
from ummgat.phantom.noise import enlarge, smooth_noise
from ummgat.phantom.signal import PROTOCOLS, TISSUE_TABLE, signal
from ummgat.phantom.subject import ideal_image, make_body

WM, GM, DGM, CSF, TUMOUR, VESSEL = range(1, 7)
A, B = make_scanner("A", 0), make_scanner("B", 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_cohort(tmp_path_factory.mktemp("phantom") / "tiny", seed=5)


@pytest.fixture(scope="module")
def mini():
    return make_subject(3, A, SEQUENCES, analytic_frame(1.0), analytic=True)


@pytest.fixture(scope="module")
def real():
    """The MNI anatomy, coarse enough for seconds."""
    return make_subject(3, A, SEQUENCES, brats_frame(3.0))


@pytest.mark.parametrize("frame", [analytic_frame(1.0), brats_frame(4.0)], ids=["analytic", "brats"])
def test_same_seed_same_bits(frame):
    analytic = frame.shape == (24, 28, 28)
    one, two, other = (make_subject(k, A, ("t1", "t2"), frame, analytic) for k in (7, 7, 8))
    assert np.array_equal(one.labels, two.labels)
    for sequence in ("t1", "t2"):
        assert np.array_equal(one.volumes[sequence], two.volumes[sequence])
    assert not np.array_equal(one.brain, other.brain)


def test_background_is_zero_and_brain_is_not(mini, real):
    for subject in (mini, real):
        for sequence, volume in subject.volumes.items():
            assert volume.dtype == np.float32
            assert np.array_equal(volume != 0, subject.brain), sequence
            assert volume.min() == 0


@pytest.mark.parametrize(
    ("sequence", "order"),
    [
        ("t1", (CSF, GM, WM)),
        ("t1ce", (CSF, GM, WM)),
        ("t2", (WM, GM, CSF)),
        ("flair", (CSF, WM, GM)),
        ("dwi", (CSF, WM, GM)),
        ("asl", (CSF, WM, GM)),
        ("hardi", (CSF, GM, WM)),
    ],
)
@pytest.mark.parametrize("which", ["mini", "real"])
def test_tissue_contrast(sequence, order, which, request):
    subject = request.getfixturevalue(which)
    medians = [float(np.median(subject.volumes[sequence][subject.tissue == t])) for t in order]
    assert medians[0] < medians[1] < medians[2], medians


def test_swi_shows_veins_dark():
    vein, white = (signal(TISSUE_TABLE[t], PROTOCOLS["swi"]) for t in ("vessel", "wm"))
    assert vein < 0.5 * white


def test_spin_echo_signal_by_hand():
    p = PROTOCOLS["t2"]
    expected = 0.70 * (1 - np.exp(-p.tr / 840)) * np.exp(-p.te / 74)
    assert signal(TISSUE_TABLE["wm"], p) == pytest.approx(expected)


def test_flair_nulls_fluid_at_every_center():
    for index in range(4):
        protocol = make_scanner("X", index).protocol("flair")
        fluid, white = (signal(TISSUE_TABLE[t], protocol) for t in ("csf", "wm"))
        assert fluid < 0.35 * white


def test_oedema_is_bright_in_t2_and_flair(real):
    oedema = real.labels == LABELS["ED"]
    for sequence in ("t2", "flair"):
        assert np.median(real.volumes[sequence][oedema]) > 1.25 * np.median(real.volumes[sequence][real.tissue == WM])


def test_contrast_agent_only_in_t1ce(real):
    rim = real.labels == LABELS["ET"]
    assert np.median(real.volumes["t1ce"][rim]) > 1.3 * np.median(real.volumes["t1"][rim])
    body = make_body(3, brats_frame(3.0))
    before, after = (ideal_image(body, A.protocol(s)) for s in ("t1", "t1ce"))
    dry = (body.fractions["et"] < 1e-6) & (body.fractions["vessel"] == 0)
    wet = body.fractions["et"] > 0.9
    assert dry.sum() > 0.5 * dry.size
    assert wet.any()
    assert np.allclose(before[dry], after[dry], rtol=1e-4)
    assert (after[wet] > 1.3 * before[wet]).all()
    assert [name for name, p in PROTOCOLS.items() if p.contrast] == ["t1ce"]


def test_tumour_displaces_tissue():
    frame = brats_frame(3.0)
    shape = Shape(frame, np.random.default_rng(1), analytic=False)
    before = shape.moved.copy()
    center = np.array([-28.0, -20.0, 25.0])
    shape.add_mass(Mass(tuple(center), radius_mm=16.0, push_mm=8.0))
    away = shape.position - center.reshape(3, 1, 1, 1)
    distance = np.linalg.norm(away, axis=0)
    outward = ((before - shape.moved) * away).sum(0) / np.maximum(distance, 1e-3)
    just_outside = (np.abs(distance - 18) < 2) & (shape.lattice_depth > 20)
    assert just_outside.any()
    assert outward[just_outside].min() > 4
    assert np.abs(outward[shape.lattice_depth == 0]).max() < 1e-4
    assert np.abs(outward[distance > 110]).max() < 0.5


def test_tumour_changes_tissue_beyond_itself():
    frame = brats_frame(3.0)
    ill, well = make_subject(11, A, (), frame), make_subject(11, A, (), frame, healthy=True)
    assert not well.labels.any()
    outside = ill.brain & well.brain & (ill.labels == 0)
    assert ((ill.tissue != well.tissue) & outside).sum() > 100


@pytest.mark.parametrize("seed", range(6))
def test_labels_are_in_the_brain_and_not_in_ventricles(seed):
    body = make_body(seed, brats_frame(4.0))
    assert set(np.unique(body.labels)) == {0, 1, 2, 3}
    assert not (body.labels[~body.mask] != 0).any()
    whole_ml = (body.labels > 0).sum() * 4.0**3 / 1000
    assert 4 <= whole_ml <= 125
    fluid = np.zeros(body.mask.shape)
    fluid[body.mask] = body.fractions["csf"]
    assert (fluid[body.labels == LABELS["ED"]] <= 0.5).all()


def test_rim_surrounds_the_necrosis():
    body = make_body(2, brats_frame(2.0))
    core = (body.labels == LABELS["NCR"]) | (body.labels == LABELS["ET"])
    distance = ndimage.distance_transform_edt(core)
    assert np.median(distance[body.labels == LABELS["NCR"]]) > np.median(distance[body.labels == LABELS["ET"]])


def test_centers_differ_and_anatomy_does_not():
    frame = brats_frame(4.0)
    at_a, at_b = (make_subject(4, s, ("t1", "t2"), frame) for s in (A, B))
    assert np.array_equal(at_a.labels, at_b.labels)
    assert np.array_equal(at_a.brain, at_b.brain)

    def ratio(subject, sequence):
        volume = subject.volumes[sequence]
        return np.median(volume[subject.tissue == GM]) / np.median(volume[subject.tissue == WM])

    assert ratio(at_b, "t1") > ratio(at_a, "t1") + 0.025
    assert abs(at_b.volumes["t1"][at_b.brain].mean() / at_a.volumes["t1"][at_a.brain].mean() - 1) > 0.3
    assert make_scanner("A", 0) == A
    assert make_scanner("A", 0, seed=1) != A


@pytest.mark.parametrize("spacing", [1.0, 2.0, 3.0])
def test_spacing_gives_shape_and_one_field_of_view(spacing):
    frame, one = brats_frame(spacing), brats_frame(1.0)
    assert frame.shape == {1.0: (155, 240, 240), 2.0: (78, 120, 120), 3.0: (52, 80, 80)}[spacing]
    assert frame.grid.shape == frame.shape[::-1]
    assert frame.grid.spacing_mm == (spacing,) * 3
    corner = np.array([-0.5, -0.5, -0.5, 1])
    assert frame.grid.matrix @ corner == pytest.approx(one.grid.matrix @ corner)


def test_affine_and_anatomy_agree_on_right_and_front():
    """A tumour placed at the right front in MNI must lie at larger world x and y than the brain's middle."""
    frame = brats_frame(4.0)
    shape = Shape(frame, np.random.default_rng(0), analytic=False)
    right_front = (shape.position[0] > 25) & (shape.position[1] > 15) & (np.abs(shape.position[2]) < 10)
    plane, row, column = np.argwhere(right_front).mean(0) * shape.step
    world = frame.grid.matrix @ [column, row, plane, 1]
    middle = frame.grid.matrix @ [*(n / 2 for n in frame.grid.shape), 1]
    assert world[0] > middle[0] + 20
    assert world[1] > middle[1] + 20


def test_white_matter_is_inside_the_brain_at_every_height(real):
    """Grey matter is nearer to the surface than white matter: the atlas was not read along the wrong axes."""
    depth = ndimage.distance_transform_edt(real.brain)
    assert np.median(depth[real.tissue == WM]) > np.median(depth[real.tissue == GM]) + 1
    planes = np.flatnonzero(real.brain.any((1, 2)))
    rows, columns = np.flatnonzero(real.brain.any((0, 2))), np.flatnonzero(real.brain.any((0, 1)))
    assert np.ptp(rows) > np.ptp(columns)
    assert np.ptp(rows) > np.ptp(planes)


def test_layout_2018_strict(tiny):
    split = json.loads((tiny / "split.json").read_text())
    assert list(split) == ["note", "center", "train", "selection", "test", "one_sequence_per_patient"]
    assert [len(split[p]) for p in ("train", "selection", "test")] == [6, 2, 2]
    for subject in split["train"]:
        names = {p.name for p in (tiny / "studies" / subject).iterdir()}
        assert names == {f"{subject}_{split['one_sequence_per_patient'][subject]}.nii.gz", f"{subject}_seg.nii.gz"}
    drawn = [(split["center"][s], q) for s, q in split["one_sequence_per_patient"].items()]
    assert {d: drawn.count(d) for d in drawn} == {
        ("A", "t1"): 1,
        ("A", "t1ce"): 1,
        ("A", "t2"): 1,
        ("A", "flair"): 1,
        ("B", "t1"): 1,
        ("B", "t2"): 1,
    }
    seen = {p.name for p in (tiny / "studies" / "Phantom_B_004").iterdir()}
    assert seen == {f"Phantom_B_004_{q}.nii.gz" for q in ("t1", "t2", "seg")}
    lines = (tiny / "centers.csv").read_text().splitlines()
    assert lines[0] == "subject,center"
    assert lines[1] == "Phantom_A_001,A"
    assert len(lines) == 11


def test_truth_is_complete_and_equals_what_was_scanned(tiny):
    subjects = sorted((tiny / "truth").iterdir())
    assert [s.name for s in subjects] == sorted(s.name for s in (tiny / "studies").iterdir())
    for subject in subjects:
        names = {p.name for p in subject.iterdir()}
        assert names == {f"{subject.name}_{q}.nii.gz" for q in ("t1", "t1ce", "t2", "flair", "seg")}
        for scanned in (tiny / "studies" / subject.name).iterdir():
            one, two = read_volume(scanned), read_volume(subject / scanned.name)
            assert np.array_equal(one[0], two[0])
            assert one[1] == two[1]


def test_voxels_on_disk(tiny):
    image = nib.load(tiny / "truth" / "Phantom_A_001" / "Phantom_A_001_t2.nii.gz")
    labels, _ = read_volume(tiny / "truth" / "Phantom_A_001" / "Phantom_A_001_seg.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert image.shape == (28, 28, 24)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    data = np.asarray(image.dataobj)
    assert 200 < data.max() < 10000
    assert data.min() == 0
    assert (data[labels > 0] > 0).all()
    assert set(np.unique(labels)) == {0, 1, 2, 4}


def test_layout_2023_with_unscanned_and_aligned_truth(tmp_path):
    config = TINY.model_copy(
        update={
            "n_subjects": {"A": 2, "B": 1},
            "layout": "brats2023",
            "truth_sequences": ("swi",),
            "align_truth": True,
            "n_healthy": {"A": 1},
        }
    )
    out = write_phantom(tmp_path / "c", config)
    name = "Phantom_A_001"
    assert {p.name for p in (out / "studies" / name).iterdir()} == {f"{name}-t1n.nii.gz", f"{name}-seg.nii.gz"}
    own = {f"{name}-{q}.nii.gz" for q in ("t1n", "t1c", "t2w", "t2f", "swi")}
    other = {f.replace(".nii.gz", "_as_B.nii.gz") for f in own}
    assert {p.name for p in (out / "truth" / name).iterdir()} == own | other | {f"{name}-seg.nii.gz"}
    labels, _ = read_volume(out / "truth" / name / f"{name}-seg.nii.gz")
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    a, _ = read_volume(out / "truth" / name / f"{name}-t1n.nii.gz")
    b, _ = read_volume(out / "truth" / name / f"{name}-t1n_as_B.nii.gz")
    assert np.array_equal(a > 0, b > 0)
    assert not np.array_equal(a, b)
    healthy = max(p.name for p in (out / "truth").glob("Phantom_A_*"))
    assert not read_volume(out / "truth" / healthy / f"{healthy}-seg.nii.gz")[0].any()


def test_draw_complete_all_and_annotation_share(tmp_path):
    counts = {"n_subjects": {"A": 6}, "n_selection": {}, "n_test": {"A": 2}, "sequences": {"A": ("t1", "t2", "flair")}}
    base = TINY.model_copy(update=counts | {"annotated": 0.5, "n_available_test": 1})

    def images(out):
        return [len([p for p in s.iterdir() if "_seg" not in p.name]) for s in sorted((out / "studies").iterdir())]

    complete = write_phantom(tmp_path / "complete", base.model_copy(update={"draw": "complete"}))
    assert images(complete) == [3] * 6 + [1, 1]
    segs = [len(list((complete / "studies" / f"Phantom_A_{i:03d}").glob("*_seg*"))) for i in range(1, 9)]
    assert sum(segs[:6]) == 3
    assert segs[6:] == [1, 1]
    messy = images(write_phantom(tmp_path / "all", base.model_copy(update={"draw": "all"})))
    assert all(1 <= n <= 3 for n in messy[:6])
    assert len(set(messy[:6])) > 1


def test_refuses_to_overwrite(tmp_path):
    config = TINY.model_copy(update={"n_subjects": {"A": 1, "B": 0}, "n_selection": {}, "n_test": {}})
    out = write_phantom(tmp_path / "c", config)
    with pytest.raises(FileExistsError, match="Output exists already"):
        write_phantom(out, config)
    smaller = config.model_copy(update={"sequences": {"A": ("t2",), "B": ("t2",)}})
    write_phantom(out, smaller, overwrite=True)
    assert {p.name for p in (out / "truth" / "Phantom_A_001").iterdir()} == {
        "Phantom_A_001_t2.nii.gz",
        "Phantom_A_001_seg.nii.gz",
    }


def test_overwrite_never_touches_a_foreign_folder(tmp_path):
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError):
        write_phantom(tmp_path, TINY, overwrite=True)
    assert (tmp_path / "truth" / "thesis.txt").read_text() == "years of work"


def test_cohort_is_reproducible(tiny, tmp_path):
    again = tiny_cohort(tmp_path / "again", seed=5)
    other = tiny_cohort(tmp_path / "other", seed=6)
    files = sorted(p.relative_to(tiny) for p in tiny.rglob("*.nii.gz"))
    assert files == sorted(p.relative_to(again) for p in again.rglob("*.nii.gz"))
    for file in files:
        assert np.array_equal(read_volume(tiny / file)[0], read_volume(again / file)[0])
    one = "truth/Phantom_A_001/Phantom_A_001_t1.nii.gz"
    assert not np.array_equal(read_volume(tiny / one)[0], read_volume(other / one)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequences": {"A": ("t1",)}}, "Centers do not agree"),
        ({"sequences": {"A": ("t1", "t9"), "B": ("t1",)}}, "Unknown sequence"),
        ({"sequences": {"A": (), "B": ("t1",)}}, "Bad sequences"),
        ({"n_test": {"C": 1}}, "Centers do not agree"),
        ({"n_subjects": {"A": -1, "B": 1}}, "Negative count"),
        ({"spacing_mm": 9.0}, "Bad voxel size"),
        ({"n_subjects": {"../x": 1}, "sequences": {"../x": ("t1",)}}, "Bad center name"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValidationError, match=message):
        PhantomConfig(**change)


def test_demo_is_the_promised_cohort():
    assert DEMO.n_subjects == {"A": 12, "B": 6}
    assert DEMO.n_test == {"A": 3, "B": 1}
    assert sum(DEMO.n_selection.values()) == 2
    assert (DEMO.spacing_mm, DEMO.draw, DEMO.annotated) == (2.0, "strict", 1.0)
    assert DEMO.all_sequences == ("t1", "t1ce", "t2", "flair")


@pytest.mark.parametrize("sigma", [0.1, 1.2, 6.0])
def test_noise_has_unit_spread(sigma):
    field = smooth_noise(np.random.default_rng(0), (48, 48, 48), sigma)
    assert field.shape == (48, 48, 48)
    assert field.dtype == np.float32
    assert 0.7 < field.std() < 1.25


def test_enlarge_is_linear_interpolation():
    coarse = np.array([0.0, 4.0, 8.0], np.float32)
    assert enlarge(coarse, 4, (7,)).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert enlarge(coarse, 4, (3,), (5.0,)).tolist() == [5, 6, 7]


def test_shipped_maps_are_those_that_their_notice_names():
    """Another map would be another phantom, and another space for every prepared cohort."""
    notice = (template_file("t1").parent / "NOTICE.md").read_text(encoding="utf-8")
    stated = dict(re.findall(r"^\| `(\S+)` \| `([0-9a-f]{64})` \|$", notice, re.MULTILINE))
    shipped = [template_file(kind) for kind in ("t1", "wm", "gm")]
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shipped} == stated
    assert "Copyright (C) 1993–2009 Louis Collins" in notice


def test_a_map_that_is_not_there_is_asked_for():
    with pytest.raises(FileNotFoundError, match=r"Template is missing: .*icbm152_csf.* Install ummgat again"):
        template_file("csf")


def test_no_torch():
    code = "import ummgat.phantom, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_functions_say_what_they_take():
    for function in (make_subject, make_scanner, write_phantom, tiny_cohort):
        assert all(p.annotation is not inspect.Parameter.empty for p in inspect.signature(function).parameters.values())
