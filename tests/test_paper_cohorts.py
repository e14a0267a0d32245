"""The cohorts that cannot be had here: UCSF-PDGM's names, meningiomas, groups of scenarios, and centers that a model
does not know.
"""

import numpy as np
import pytest
from scipy import ndimage

import bad_nifti as bad
from test_segmentation import SEQUENCES as THREE
from test_segmentation import Oracle
from ummgat.core.domain import SEQUENCES
from ummgat.core.files import read_json
from ummgat.core.study import LABELS, Study, load_cohort
from ummgat.core.volume import read_volume
from ummgat.evaluate.results import read_results
from ummgat.evaluate.scenarios import scenario_names
from ummgat.evaluate.segmentation import Substitutes, evaluate
from ummgat.evaluate.tables import paper_dice
from ummgat.intake.layouts import find_studies
from ummgat.model.weights import load_model
from ummgat.phantom import MENINGIOMA, TEN_DOMAIN, brats_frame, write_phantom
from ummgat.phantom.anatomy import Shape
from ummgat.phantom.meningioma import plan_meningioma
from ummgat.phantom.subject import make_body
from ummgat.phantom.tumour import grow_tumour, plan_tumour
from ummgat.prepare.cohort import prepare_cohort
from ummgat.prepare.settings import PrepareSettings

# ---------------------------------------------------------------- UCSF-PDGM on disk

LISTED = (
    "ADC", "ASL", "brain_parenchyma_segmentation", "brain_segmentation", "DTI_eddy_FA", "DTI_eddy_L1", "DTI_eddy_MD",
    "DTI_eddy_noreg", "DWI_bias", "DWI", "FLAIR_bias", "FLAIR", "SWI_bias", "SWI", "T1_bias", "T1c_bias", "T1c", "T1",
    "T2_bias", "T2", "tumor_segmentation",
)  # fmt: skip


def ucsf(folder, names=LISTED, prefix="UCSF-PDGM-0004"):
    for name in names:
        bad.save(folder / f"{prefix}_{name}.nii.gz", bad.brain())
    return folder


def test_ucsf_pdgm_takes_one_file_for_each_of_eight_sequences(tmp_path):
    ucsf(tmp_path / "UCSF-PDGM-0004_nifti")
    for asked in ("auto", "ucsf-pdgm"):
        (study,), used = find_studies(tmp_path, asked)
        assert (used, study.subject) == ("ucsf-pdgm", "UCSF-PDGM-0004")
        assert list(study.images) == list(SEQUENCES)
        taken = [p.name.removeprefix("UCSF-PDGM-0004_").removesuffix(".nii.gz") for p in study.images.values()]
        assert taken == ["T1_bias", "T1c_bias", "T2_bias", "FLAIR_bias", "SWI_bias", "DWI_bias", "ASL", "DTI_eddy_FA"]
        assert study.labels.name == "UCSF-PDGM-0004_tumor_segmentation.nii.gz"
        assert study.label_table == {1: "NCR", 2: "ED", 4: "ET"}
        assert len(study.ignored) == len(LISTED) - 9
        assert not study.problems + study.findings


def test_ucsf_pdgm_says_where_bias_is_left_and_reads_numbers_of_other_digits(tmp_path):
    ucsf(tmp_path / "UCSF-PDGM-004_nifti", ("T1", "T2", "T2_bias", "ASL", "tumor_segmentation"))
    ((study,), _) = find_studies(tmp_path)
    assert study.subject == "UCSF-PDGM-004"
    assert [p.name for p in study.images.values()] == [f"UCSF-PDGM-0004_{n}.nii.gz" for n in ("T1", "T2_bias", "ASL")]
    assert study.findings == ["not bias-corrected, as there is no _bias file: t1"]


def test_second_exam_of_a_patient_is_refused_and_the_rest_is_done(tmp_path):
    ucsf(tmp_path / "raw" / "UCSF-PDGM-0433_nifti", ("T1_bias", "T2_bias"), "UCSF-PDGM-0433")
    ucsf(tmp_path / "raw" / "UCSF-PDGM-0433_FU007d_nifti", ("T1_bias", "T2_bias"), "UCSF-PDGM-0433_FU007d")
    report = prepare_cohort(tmp_path / "raw", tmp_path / "out", PrepareSettings(center="U"))
    assert list(report.done) == ["UCSF-PDGM-0433"]
    assert "Second exam of one patient" in report.failed["UCSF-PDGM-0433_FU007d"]


# ---------------------------------------------------------------- phantoms of them


def small(config, **counts):
    return config.model_copy(update={"grid": "analytic", "spacing_mm": 1.0, "n_selection": {}, "n_test": {}} | counts)


def test_ten_domain_phantom_comes_through_prepare_in_two_calls_like_the_real_one(tmp_path):
    assert sum(len(names) for names in TEN_DOMAIN.sequences.values()) == 10
    raw = write_phantom(tmp_path / "raw", small(TEN_DOMAIN, n_subjects={"U": 2, "L": 1}))
    name = "Phantom_U_001"
    folder = raw / "studies" / "U" / f"{name}_nifti"
    assert (folder / f"{name}_DTI_eddy_FA.nii.gz").is_file()
    assert (folder / f"{name}_T1c_bias.nii.gz").is_file()
    out, used = tmp_path / "cohort", []
    for center in ("U", "L"):
        report = prepare_cohort(raw / "studies" / center, out, PrepareSettings(center=center))
        assert not report.failed
        assert not report.findings
        used.append(report.layout)
    assert used == ["ucsf-pdgm", "brats2018"]
    studies = {s.subject: s for s in load_cohort(out)}
    assert {s: set(x.sequences) for s, x in studies.items()} == {
        "Phantom_U_001": set(SEQUENCES), "Phantom_U_002": set(SEQUENCES), "Phantom_L_001": {"t1", "t2"}
    }  # fmt: skip
    assert set(np.unique(studies[name].labels())) == {0, *LABELS.values()}
    assert {p.name for p in (raw / "truth" / "L" / "Phantom_L_001").iterdir()} >= {"Phantom_L_001_hardi.nii.gz"}


def test_meningioma_phantom_is_in_the_layout_of_brats_men(tmp_path):
    raw = write_phantom(tmp_path / "raw", small(MENINGIOMA, n_subjects={"M": 3}))
    assert MENINGIOMA.scanners()["M"].index == 2
    name = "Phantom_M_001"
    expected = {f"{name}-{end}.nii.gz" for end in ("t1n", "t1c", "t2w", "t2f", "seg")}
    assert {p.name for p in (raw / "studies" / name).iterdir()} == expected
    found = {int(v) for p in raw.glob("studies/*/*seg*") for v in np.unique(read_volume(p)[0])}
    assert found <= {0, 1, 2, 3}
    assert 3 in found
    report = prepare_cohort(raw / "studies", tmp_path / "cohort", PrepareSettings(center="M"))
    assert (report.layout, len(report.done)) == ("brats2023", 3)


@pytest.fixture(scope="module")
def meningiomas():
    frame = brats_frame(5.0)
    return [(make_body(k, frame, kind="meningioma"), make_body(k, frame, kind="glioma")) for k in range(5)]


def test_meningiomas_are_solid_and_some_have_no_oedema(meningiomas):
    def share(body, name):
        return (body.labels == LABELS[name]).sum() / (body.labels > 0).sum()

    for body, _ in meningiomas:
        core = (body.labels == LABELS["ET"]) | (body.labels == LABELS["NCR"])
        assert (body.labels[core] == LABELS["NCR"]).mean() < 0.06
        assert not (body.labels[~body.mask] != 0).any()
        assert body.tissues["et"].uptake > body.tissues["ed"].uptake
    assert np.median([share(g, "NCR") for _, g in meningiomas]) > 0.06
    without = [share(m, "ED") == 0 for m, _ in meningiomas]
    assert 0 < sum(without) < len(without)
    assert all(share(g, "ED") > 0 for _, g in meningiomas)
    for (body, _), bare in zip(meningiomas, without, strict=True):
        aged = body.fractions["ed"].max()  # white matter beside the ventricles; true oedema fills voxels
        assert (aged < 0.6) == bare


def test_meningiomas_lie_at_the_dura_and_gliomas_do_not():
    """At the brain's edge, or on one side of the falx and up to it."""
    frame = brats_frame(5.0)
    at_edge: dict[str, list[float]] = {"convexity": [], "glioma": []}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        shape = Shape(frame, rng, analytic=False)
        for kind, plan in (("glioma", plan_tumour(shape, rng)), ("convexity", plan_meningioma(shape, rng))):
            anatomy = shape.render(rng)  # not pushed: where the tumour lies is asked, not what it does
            labels = grow_tumour(anatomy, plan, rng)[1]
            core = (labels == LABELS["ET"]) | (labels == LABELS["NCR"])
            if plan.side:
                x = anatomy.position[0][core] * plan.side
                assert 0 < x.min() < 5
                assert x.max() > 10
                continue
            border = core & ~ndimage.binary_erosion(core)
            edge = ndimage.binary_dilation(~anatomy.mask, iterations=1)
            at_edge[kind].append((border & edge).sum() / border.sum())
    assert len(at_edge["glioma"]) == 6
    assert 1 <= len(at_edge["convexity"]) <= 5
    assert min(at_edge["convexity"]) > 0.1, at_edge
    assert np.median(at_edge["convexity"]) > 2 * np.median(at_edge["glioma"]), at_edge


# ---------------------------------------------------------------- groups of scenarios


def test_groups_of_scenarios_for_four_and_eight_sequences():
    four = ("t1", "t1ce", "t2", "flair")
    assert len(scenario_names(four, None)) == 16
    assert scenario_names(SEQUENCES, None) == {"none", "random", *SEQUENCES}
    assert scenario_names(SEQUENCES, ["single"]) == set(SEQUENCES)
    assert [len(scenario_names(SEQUENCES, [g])) for g in ("double", "triple", "fixed")] == [28, 56, 254]
    assert scenario_names(four, ["none", "single", "flair+t2"]) == {"none", *four, "t2+flair"}
    assert scenario_names(("t1", "t2"), ["triple", "random"]) == {"random"}
    assert scenario_names(("t1", "t2"), ["flair"]) == set()  # of another segmenter
    for wrong in ("singles", "t1+t1", "t3", ""):
        with pytest.raises(ValueError, match=r"Unknown scenario: --scenarios\. Found .*single, double, triple, fixed"):
            scenario_names(four, [wrong])


def test_the_papers_tables_are_among_what_is_tried():
    for dataset, sequences, asked in (
        ("UCSF-PDGM", SEQUENCES, None),
        ("BraTS2023-MEN", ("t1", "t1ce", "t2", "flair"), ["none", "single", "t1+t1ce", "t2+flair"]),
    ):
        scenarios = {scenario for scenario, *_ in paper_dice(dataset)}
        assert scenarios <= scenario_names(sequences, asked)
        assert len(scenarios) == {"UCSF-PDGM": 9, "BraTS2023-MEN": 7}[dataset]


# ---------------------------------------------------------------- a center the model does not know


@pytest.fixture(scope="module")
def model(model_path):
    return load_model(model_path)


@pytest.fixture(scope="module")
def abroad(cohort_studies):
    """A study of center A, said to come from M."""
    study = next(s for s in cohort_studies if s.center == "A" and set(THREE) <= set(s.sequences))
    return study, Study(study.folder, study.record.model_copy(update={"center": "M"}))


def test_a_strange_center_is_refused_until_it_is_said_which_it_resembles(tmp_path, model, abroad):
    _, study = abroad
    call = ({"plain": Oracle([study])}, model, [study], tmp_path / "ev", {}, {"model": "x"})
    with pytest.raises(
        ValueError, match=r"does not know the center of the studies\. Found M; expected one of A, B\..*--as-center"
    ):
        evaluate(*call, scenarios=["t2"])
    with pytest.raises(ValueError, match=r"--as-center\. Found 'M'; expected one of A, B"):
        evaluate(*call, scenarios=["t2"], as_center="M")
    with pytest.raises(
        ValueError, match=r"No scenario is left: --scenarios\. Found flair; expected sequences out of t1, t1ce, t2"
    ):
        evaluate(*call, scenarios=["flair"], as_center="A")
    assert not (tmp_path / "ev").exists()
    report = evaluate(*call, scenarios=["t2"], as_center="A")
    assert list(report.done) == [study.subject]
    rows = read_results(tmp_path / "ev" / "results.csv")
    assert {row["center"] for row in rows} == {"M as A"}
    assert {row["method"] for row in rows} == {"empty", "copy", "matched", "generate", "fuse"}
    assert read_json(tmp_path / "ev" / "settings.json")["as_center"] == "A"
    with pytest.raises(ValueError, match=r"another evaluation: .*Found other as_center"):
        evaluate(*call, scenarios=["t2"], as_center="B")


def test_as_center_translates_like_that_center(model, abroad):
    at_home, study = abroad
    taken = Substitutes(model, study, THREE, "A")
    assert taken.can_generate == list(THREE)
    np.testing.assert_array_equal(
        taken._generated("t2", ("t1",)), Substitutes(model, at_home, THREE)._generated("t2", ("t1",))
    )
    assert Substitutes(model, study, ("t1", "t2"), "B").can_generate == ["t2"]  # all it knows of B
    assert taken.ranked == Substitutes(model, at_home, THREE).ranked
