from collections import Counter

import numpy as np
import pytest

from conftest import DOMAINS
from ummgat.core.config import DataConfig
from ummgat.core.domain import DomainTable
from ummgat.core.draw import Draw
from ummgat.core.study import GridRecord, ImageRecord, StudyRecord, write_study
from ummgat.core.volume import Grid
from ummgat.model.masked import from_unit, to_unit
from ummgat.train.slices import Batch, SliceSampler, index_volumes, selection_volumes, trimmed

PLANES = 20
CONFIG = DataConfig(crop=(12, 12), min_brain=0.1, flip=0.0)
SHARE_OF = {"t1": 1, "t2": 2, "flair": 3}


def write_subject(folder, number, sequences, *, annotated=True, lesion_planes=range(8, 12), brain_planes=range(2, 18)):
    """A box of brain whose every voxel tells whose it is: 10·number + sequence, and + 100 where plane is odd."""
    grid = GridRecord.of(Grid.of((12, 12, PLANES), np.eye(4)))
    brain = np.zeros((PLANES, 12, 12), np.uint8)
    brain[brain_planes, 2:10, 3:9] = 1
    labels = np.zeros_like(brain)
    labels[lesion_planes, 4:6, 3:5] = 2
    odd = (np.arange(PLANES) % 2 * 100).astype(np.uint8)[:, None, None]
    record = StudyRecord(
        subject=f"s{number}",
        center="A",
        grid=grid,
        original_grid=grid,
        images={q: ImageRecord(file=f"{q}.nii") for q in sequences},
        labels_file="labels.nii" if annotated else None,
        brain_voxels=int(brain.sum()),
    )
    volumes = {q: (brain * (10 * number + SHARE_OF[q] + odd)).astype(np.uint8) for q in sequences}
    return write_study(folder / f"s{number}", record, volumes, labels if annotated else None)


def draw_of(train, domains=("A/t1", "A/t2", "A/flair")):
    return Draw(mode="all", seed=0, domains=list(domains), train=train, selection=[], test=[])


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Seven subjects with t1, two with t2, three with flair: two of them have two sequences."""
    folder = tmp_path_factory.mktemp("uneven")
    train = {f"s{i}": ["t1"] for i in range(5)} | {"s5": ["t1", "flair"], "s6": ["t1", "t2"]}
    train |= {"s7": ["t2"], "s8": ["flair"], "s9": ["flair"]}
    studies = [write_subject(folder, int(s[1]), sequences) for s, sequences in train.items()]
    return studies, draw_of(train)


def sampler_of(studies, draw, config=CONFIG, seed=0):
    return SliceSampler(index_volumes(studies, draw, config), len(draw.domains), config, seed)


def told(images):
    """Subject, sequence number and parity of the plane that each slice tells."""
    values = from_unit(images).reshape(len(images), -1).max(1).astype(int)
    return [(v % 100 // 10, v % 10, v // 100) for v in values]


# ---------------------------------------------------------------- units


def test_units_go_back_and_forth_and_background_is_exact():
    values = np.arange(256, dtype=np.uint8)
    unit = to_unit(values)
    assert unit.dtype == np.float32
    assert (unit[0], unit[255]) == (-1, 1)
    assert (unit[1:] > -1).all()
    np.testing.assert_array_equal(from_unit(unit), values)


def test_brain_stays_brain_however_dark_and_out_of_range_is_clipped():
    assert from_unit(np.array([-1, -0.99999, -0.999, 0, 1, 1.7], np.float32)).tolist() == [0, 1, 1, 128, 255, 255]


# ---------------------------------------------------------------- batches


def test_shapes_and_ranges(uneven):
    batch = sampler_of(*uneven).batch(0, 5, 7)
    for image in (batch.x_src, batch.x_ref):
        assert (image.shape, image.dtype) == ((5, 1, 12, 12), np.float32)
        assert image.min() == -1
        assert image.max() <= 1
    for lesion in (batch.lesion_src, batch.lesion_ref):
        assert (lesion.shape, lesion.dtype) == ((5, 1, 12, 12), np.float32)
        assert set(np.unique(lesion)) <= {0, 1}
    assert batch.y_src.shape == batch.y_trg.shape == (5,)
    assert (batch.z.shape, batch.z.dtype) == ((2, 5, 7), np.float32)


def test_batch_is_a_function_of_seed_and_step_alone(uneven):
    one, two = sampler_of(*uneven), sampler_of(*uneven)
    two.batch(0, 4, 2)  # what was drawn before leaves no trace
    a, b = one.batch(3, 4, 2), two.batch(3, 4, 2)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    for other in (one.batch(4, 4, 2), sampler_of(*uneven, seed=1).batch(3, 4, 2)):
        assert not np.array_equal(a.z, other.z)
        assert not np.array_equal(a.x_src, other.x_src)


def test_images_are_of_their_domain_and_the_reference_of_another_subject(uneven):
    batch = sampler_of(*uneven).batch(0, 100, 1)
    source, reference = told(batch.x_src), told(batch.x_ref)
    sequences = np.array([1, 2, 3])
    assert [s for _, s, _ in source] == sequences[batch.y_src].tolist()
    assert [s for _, s, _ in reference] == sequences[batch.y_trg].tolist()
    assert all(a != b for (a, _, _), (b, _, _) in zip(source, reference, strict=True))


def test_domains_and_subjects_are_balanced(uneven):
    """450 draws over 3 domains, 150 ± 10 each, although t1 has 7 of 12 volumes; 4.5 standard deviations allowed."""
    batch = sampler_of(*uneven).batch(1, 450, 1)
    for domains in (batch.y_src, batch.y_trg):
        counts = np.bincount(domains, minlength=3)
        assert np.abs(counts - 150).max() < 4.5 * np.sqrt(450 * 1 / 3 * 2 / 3)
    pairs = np.bincount(3 * batch.y_src + batch.y_trg, minlength=9)  # 50 ± 6.7 each
    assert np.abs(pairs - 50).max() < 4.5 * np.sqrt(450 * 1 / 9 * 8 / 9)
    flair = Counter(s for s, q, _ in told(batch.x_ref) if q == 3)
    assert set(flair) == {5, 8, 9}
    assert max(flair.values()) < 2 * min(flair.values())


def test_source_is_swapped_when_the_target_domain_has_no_other_subject(tmp_path):
    """One subject per domain: source and target can never be the same domain."""
    studies = [write_subject(tmp_path, 1, ["t1"]), write_subject(tmp_path, 2, ["t2"])]
    sampler = sampler_of(studies, draw_of({"s1": ["t1"], "s2": ["t2"]}, ["A/t1", "A/t2"]))
    batch = sampler.batch(0, 60, 1)
    assert (batch.y_src != batch.y_trg).all()
    assert [s for s, _, _ in told(batch.x_src)] == (batch.y_src + 1).tolist()
    assert 15 < batch.y_trg.sum() < 45


def test_lesion_share(uneven):
    """4 of 16 planes show a lesion. Share 1: all pairs do; 0: a quarter of the sources by chance; a half: 0.5 +
    0.5·0.25.
    """
    n = 100
    for share, expected in ((0.0, 0.25), (0.5, 0.625), (1.0, 1.0)):
        batch = sampler_of(*uneven, CONFIG.model_copy(update={"lesion_share": share})).batch(2, n, 1)
        source = batch.lesion_src.any((1, 2, 3))
        assert abs(source.mean() - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / n)
        if share == 1:
            assert batch.lesion_ref.any((1, 2, 3)).all()


def test_lesion_lies_where_it_was_drawn(uneven):
    batch = sampler_of(*uneven, CONFIG.model_copy(update={"lesion_share": 1.0})).batch(0, 4, 1)
    expected = np.zeros((12, 12))
    expected[4:6, 3:5] = 1  # the crop is as large as the image
    assert (batch.lesion_src == expected).all()


def test_paired_batches_show_the_very_slice_in_the_target_domain(uneven):
    """s5 has t1 and flair, s6 t1 and t2: their slices are paired there, mirrored alike; what nobody has is
    background.
    """
    sampler = sampler_of(*uneven, CONFIG.model_copy(update={"flip": 0.5}))
    batch, plain = sampler.batch(0, 300, 1, paired=True), sampler.batch(0, 300, 1)
    np.testing.assert_array_equal(batch.x_src, plain.x_src)  # the same slices in the same order
    np.testing.assert_array_equal(batch.x_ref, plain.x_ref)
    assert plain.x_true is None
    known = batch.x_true.max((1, 2, 3)) > -1
    number = {0: 1, 1: 2, 2: 3}  # of the sequence, as its voxels tell
    has = {5: {1, 3}, 6: {1, 2}}
    other = 0
    for source, true, y, there, x, t in zip(
        told(batch.x_src), told(batch.x_true), batch.y_trg, known, batch.x_src, batch.x_true, strict=True
    ):
        subject, sequence, parity = source
        wanted = number[int(y)]
        assert there == (wanted == sequence or wanted in has.get(subject, ()))
        if there:
            assert true == (subject, wanted, parity)
            assert ((x > -1) == (t > -1)).all()
            other += wanted != sequence
    assert other > 3


def test_paired_batches_are_mirrored_as_their_sources_are(tmp_path):
    """Greys rise from left to right: into its own domain a source's true image is the source itself."""
    studies = []
    for number in (1, 2):
        study = write_subject(tmp_path, number, ["t1"])
        volume = np.where(np.array(study.volume("t1")) > 0, np.arange(12, dtype=np.uint8) + 10, 0).astype(np.uint8)
        studies.append(write_study(study.folder, study.record, {"t1": volume}, None))
    draw = draw_of({"s1": ["t1"], "s2": ["t1"]}, ["A/t1"])
    batch = sampler_of(studies, draw, CONFIG.model_copy(update={"flip": 0.5})).batch(0, 20, 1, paired=True)
    np.testing.assert_array_equal(batch.x_true, batch.x_src)
    falls = batch.x_src[:, 0, 5, 4] > batch.x_src[:, 0, 5, 5]
    assert 0 < falls.sum() < 20


def test_labels_come_with_their_values(uneven):
    batch = sampler_of(*uneven, CONFIG.model_copy(update={"lesion_share": 1.0})).batch(0, 4, 1)
    np.testing.assert_array_equal(batch.labels_src, 2 * batch.lesion_src)


def test_unannotated_subject_has_an_empty_mask_and_still_trains(tmp_path):
    studies = [write_subject(tmp_path, i, ["t1"], annotated=i != 1) for i in (1, 2, 3)]
    sampler = sampler_of(studies, draw_of({f"s{i}": ["t1"] for i in (1, 2, 3)}, ["A/t1"]))
    batch = sampler.batch(0, 60, 1)
    bare = np.array([subject == 1 for subject, _, _ in told(batch.x_src)])
    assert 5 < bare.sum() < 40
    assert not batch.lesion_src[bare].any()
    assert batch.lesion_src[~bare].any()


def test_reference_lies_within_the_height_window_of_its_source(tmp_path):
    """Brains of 16 and 8 planes, whose greys count up from 10 with height."""
    studies = []
    for number, planes in ((1, range(2, 18)), (2, range(4, 12))):
        study = write_subject(tmp_path, number, ["t1"], brain_planes=planes)
        volume = np.array(study.volume("t1"))
        volume[volume > 0] = 0
        for i, plane in enumerate(planes):
            volume[plane, 2:10, 3:9] = 10 + i
        studies.append(write_study(study.folder, study.record, {"t1": volume}, None))
    draw = draw_of({"s1": ["t1"], "s2": ["t1"]}, ["A/t1"])

    def furthest(window):
        """Largest distance in height from a source in the tall brain, which a grey of 18 or more tells."""
        config = CONFIG.model_copy(update={"height_window": window, "lesion_share": 0.0})
        batch = sampler_of(studies, draw, config).batch(0, 120, 1)
        source, reference = (from_unit(x).reshape(120, -1).max(1).astype(int) - 10 for x in (batch.x_src, batch.x_ref))
        tall = source >= 8
        assert tall.sum() > 15
        return np.abs(source / 15 - reference / 7)[tall].max()

    assert furthest(0.2) <= 0.1 + 1e-6
    assert furthest(1.0) > 0.3


def test_where_no_plane_is_near_the_nearest_is_taken(tmp_path):
    """A lesion at the bottom of one brain and at the top of the other: far apart, and still a pair."""
    studies = [write_subject(tmp_path, i, ["t1"], lesion_planes=[p]) for i, p in ((1, 3), (2, 16))]
    config = CONFIG.model_copy(update={"lesion_share": 1.0, "height_window": 0.1})
    batch = sampler_of(studies, draw_of({"s1": ["t1"], "s2": ["t1"]}, ["A/t1"]), config).batch(0, 10, 1)
    assert batch.lesion_src.any((1, 2, 3)).all()
    assert batch.lesion_ref.any((1, 2, 3)).all()


def test_flip_mirrors_image_and_lesion_together(uneven):
    always = sampler_of(*uneven, CONFIG.model_copy(update={"flip": 1.0})).batch(0, 6, 1)
    never = sampler_of(*uneven).batch(0, 6, 1)
    for name in ("x_src", "lesion_src", "x_ref", "lesion_ref"):
        assert np.array_equal(getattr(always, name), getattr(never, name)[..., ::-1]), name
    half = sampler_of(*uneven, CONFIG.model_copy(update={"flip": 0.5, "lesion_share": 1.0})).batch(0, 100, 1)
    flipped = half.lesion_src[:, 0, 4, 8] > 0  # columns 3 and 4 become 8 and 7
    assert 28 < flipped.sum() < 72


# ---------------------------------------------------------------- the index


def test_planes_with_too_little_brain_do_not_train(tmp_path):
    """48 of 144 pixels are brain: a share of a third."""
    study = write_subject(tmp_path, 1, ["t1"]), write_subject(tmp_path, 2, ["t1"])
    draw = draw_of({"s1": ["t1"], "s2": ["t1"]}, ["A/t1"])
    (volume, _) = index_volumes(study, draw, CONFIG.model_copy(update={"min_brain": 0.33}))
    assert volume.planes.tolist() == list(range(2, 18))
    assert volume.heights[[0, -1]].tolist() == [0, 1]
    assert np.flatnonzero(volume.has_lesion).tolist() == [6, 7, 8, 9]  # planes 8 to 11
    with pytest.raises(ValueError, match=r"no training slice: A/t1\. Found none with data\.min_brain 0\.34"):
        index_volumes(study, draw, CONFIG.model_copy(update={"min_brain": 0.34}))


def test_crop_is_centred_on_the_brain(uneven):
    studies, draw = uneven
    volume = index_volumes(studies, draw, CONFIG.model_copy(update={"crop": (4, 16)}))[0]
    assert volume.corner == (4, -2)  # rows 2–9 → 4–7; columns 3–8 → -2–13, beyond the image


def test_voxel_size_of_another_preset_is_refused(uneven):
    with pytest.raises(
        ValueError, match=r"disagree on voxel size: .*s0\. Found \(1\.0, 1\.0, 1\.0\) mm; expected 2\.0 mm"
    ):
        index_volumes(*uneven, CONFIG.model_copy(update={"spacing_mm": 2.0}))


def test_draw_with_an_unknown_subject_or_a_missing_sequence_is_refused(uneven):
    studies, draw = uneven
    with pytest.raises(ValueError, match=r"Draw names a subject that the cohort lacks\. Found s5"):
        index_volumes(studies[:5], draw, CONFIG)
    wrong = draw.model_copy(update={"train": draw.train | {"s0": ["t2"]}})
    with pytest.raises(ValueError, match="Sequence is missing: t2 of subject s0"):
        index_volumes(studies, wrong, CONFIG)


def test_one_subject_is_too_few(tmp_path):
    study = write_subject(tmp_path, 1, ["t1", "t2"])
    with pytest.raises(ValueError, match=r"Too few training subjects\. Found 1; expected at least 2"):
        index_volumes([study], draw_of({"s1": ["t1", "t2"]}, ["A/t1", "A/t2"]), CONFIG)


def test_a_subject_without_a_usable_plane_does_not_count_as_the_second(tmp_path):
    studies = [write_subject(tmp_path, 1, ["t1"]), write_subject(tmp_path, 2, ["t1"])]
    tiny = np.zeros((PLANES, 12, 12), np.uint8)
    tiny[5, 5, 5:7] = 9
    write_study(studies[1].folder, studies[1].record, {"t1": tiny}, None)
    with pytest.raises(ValueError, match=r"Too few training subjects\. Found 1; expected at least 2"):
        index_volumes(studies, draw_of({"s1": ["t1"], "s2": ["t1"]}, ["A/t1"]), CONFIG)


def test_selection_volumes_of_a_subject_share_planes_and_crop(cohort_studies, strict_draw):
    chosen = [s for s in cohort_studies if s.subject in strict_draw.selection]
    volumes = selection_volumes(chosen, strict_draw.table, CONFIG)
    assert [f"{v.study.center}/{v.sequence}" for v in volumes] == DOMAINS  # B's t1 is no domain of this draw
    assert [v.domain for v in volumes] == [0, 1, 2, 3]
    for other in volumes[1:3]:
        assert np.array_equal(other.planes, volumes[0].planes)
        assert other.corner == volumes[0].corner


def test_selection_subject_without_a_known_domain_is_left_out(cohort_studies):
    table = DomainTable.from_names(["B/flair"])
    assert selection_volumes(cohort_studies, table, CONFIG) == []


def test_trimmed_batch_keeps_all_brain_at_multiples_of_the_unit():
    """Brain in rows 5 to 9 and columns 6 to 12, source and reference together; unit 4."""
    x_src, x_ref = np.full((2, 2, 1, 20, 24), -1.0, np.float32)
    x_src[0, 0, 5:8, 6:9] = 0.5
    x_ref[1, 0, 7:10, 8:13] = 0.7
    lesion = (x_src > 0).astype(np.float32)
    y = np.zeros(2, np.int64)
    whole = Batch(x_src, y, lesion, x_ref, y, lesion, np.zeros((2, 2, 3), np.float32))
    cut = trimmed(whole, 4)
    assert cut.origin == (4, 4)
    for name in ("x_src", "lesion_src", "x_ref", "lesion_ref"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name)[:, :, 4:12, 4:16])
    x_src[1, 0, 19, 23] = x_src[1, 0, 0, 0] = 0.1
    assert trimmed(whole, 4).x_src.shape == x_src.shape
