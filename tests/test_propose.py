"""Proposals of sequences: what words and times can tell, and what they cannot."""

import pytest

from ummgat.intake.propose import Facts, propose

T1 = {"repetition_ms": 550, "echo_ms": 12, "scanning": ("SE",)}
MPRAGE = {"repetition_ms": 2300, "echo_ms": 3, "inversion_ms": 900, "scanning": ("GR", "IR")}
T1_FLAIR = {"repetition_ms": 2200, "echo_ms": 24, "inversion_ms": 860, "scanning": ("SE", "IR")}
T2 = {"repetition_ms": 4500, "echo_ms": 95, "scanning": ("SE",)}
FLAIR = {"repetition_ms": 9000, "echo_ms": 110, "inversion_ms": 2500, "scanning": ("SE", "IR")}
STIR = {"repetition_ms": 4000, "echo_ms": 60, "inversion_ms": 150, "scanning": ("SE", "IR")}
PD = {"repetition_ms": 3000, "echo_ms": 15, "scanning": ("SE",)}
GRE = {"repetition_ms": 700, "echo_ms": 20, "scanning": ("GR",)}
EPI = {"repetition_ms": 5200, "echo_ms": 90, "scanning": ("EP",)}


def told(description, agent=None, image_type=("ORIGINAL", "PRIMARY"), b=None, **times):
    found = propose(Facts(description, agent, image_type=image_type, b_value=b, **times))
    return found.sequence, found.sure


@pytest.mark.parametrize(
    ("description", "agent", "times", "expected"),
    [
        # plain and enhanced
        ("t1_se_tra_nativ", None, T1, ("t1", "sure")),
        ("AX T1 PRE", None, T1, ("t1", "sure")),
        ("T1 ohne KM", None, T1, ("t1", "sure")),
        ("T1 w/o contrast", None, T1, ("t1", "sure")),
        ("Sag T1", "NONE", T1, ("t1", "sure")),
        ("AX T1 POST", None, T1, ("t1ce", "sure")),
        ("AX T1 +C", None, T1, ("t1ce", "sure")),
        ("3D T1 MPRAGE C+", None, MPRAGE, ("t1ce", "sure")),
        ("t1_mpr_sag_KM", "", MPRAGE, ("t1ce", "sure")),
        ("T1W_3D_TFE_Gd", None, MPRAGE, ("t1ce", "sure")),
        ("t1_mprage", "Gadovist 7.5 ml", MPRAGE, ("t1ce", "sure")),
        # nothing says whether there was contrast agent
        ("t1_se_tra", None, T1, ("t1", "likely")),
        ("T1 post-op", None, T1, ("t1", "likely")),
        ("t1_se_tra", "", T1, ("t1", "likely")),
        # signs on both sides
        ("T1 nativ", "Gadovist", T1, (None, "unknown")),
        ("T1 Gd", "NONE", T1, (None, "unknown")),
        ("T1 pre post", None, T1, (None, "unknown")),
        # the others
        ("t2_tse_tra_320", None, T2, ("t2", "sure")),
        ("T2W_TSE", "Gadovist", T2, ("t2", "sure")),
        ("t2_tirm_tra_dark-fluid", None, FLAIR, ("flair", "sure")),
        ("AX T2 FLAIR", None, FLAIR, ("flair", "sure")),
        ("FLAIR", None, T2, ("flair", "sure")),  # a header without inversion time
        ("Ax T1 FLAIR pre", None, T1_FLAIR, ("t1", "sure")),
        ("SWI_Images", None, GRE, ("swi", "sure")),
        ("ep2d_diff_TRACEW", None, EPI, ("dwi", "sure")),
        ("pcasl_cbf", None, EPI, ("asl", "sure")),
        ("DTI_FA", None, EPI, ("hardi", "sure")),
        # a name, and nothing to check it by
        ("t2_tse", None, {}, ("t2", "likely")),
        # words against times
        ("t1_se_nativ", None, FLAIR, (None, "unknown")),
        ("t2_tse", None, T1, (None, "unknown")),
        ("flair", None, STIR, (None, "unknown")),
        ("t2_tse", None, PD, (None, "unknown")),
        ("t1_fl2d_nativ", None, GRE, (None, "unknown")),
        # times alone
        ("Serie 7", None, FLAIR, ("flair", "likely")),
        ("Serie 7", None, T2, ("t2", "likely")),
        ("Serie 7", None, T1, ("t1", "likely")),
        ("Serie 7", "Dotarem", T1, ("t1ce", "likely")),
        ("Serie 7", None, PD, (None, "unknown")),
        ("Serie 7", None, GRE, (None, "unknown")),
        ("Serie 7", None, {}, (None, "unknown")),
        # no sequence of ours
        ("T2* GRE", None, GRE, (None, "unknown")),
        ("t2_star_map", None, GRE, (None, "unknown")),
        ("ADC", None, EPI, (None, "unknown")),
        ("localizer t1", None, T1, (None, "unknown")),
        ("PD T2", None, T2, (None, "unknown")),
        ("t2_stir", None, STIR, (None, "unknown")),
        ("T1 map", None, MPRAGE, (None, "unknown")),
        ("swi phase", None, GRE, (None, "unknown")),
        ("perf dsc", None, EPI, (None, "unknown")),
        ("t1 t2", None, T1, (None, "unknown")),
        ("t10 t22", None, {}, (None, "unknown")),
    ],
)
def test_words_and_times(description, agent, times, expected):
    assert told(description, agent, **times) == expected


def test_derived_images_are_likely_at_most():
    assert told("t2_tse", None, ("DERIVED", "SECONDARY"), **T2) == ("t2", "likely")
    assert told("DTI_FA", None, ("DERIVED", "PRIMARY"), **EPI) == ("hardi", "sure")  # derived by nature
    assert told("t2_tse", None, ("DERIVED", "PRIMARY", "ADC"), **T2) == (None, "unknown")


def test_images_without_diffusion_weighting_are_no_dwi():
    assert told("dwi", b=0.0, **EPI) == (None, "unknown")
    assert told("dwi", b=1000.0, **EPI) == ("dwi", "sure")


def test_reasons_name_the_witnesses():
    why = propose(Facts("t1_se", "Gadovist", **T1)).why
    assert why == "description says t1; SE with TR 550 ms, TE 12 ms; ContrastBolusAgent is set"
    assert "named t1, but SE/IR with TR 9000 ms" in propose(Facts("", **FLAIR), "t1").why


@pytest.mark.parametrize(
    ("named", "facts", "expected"),
    [
        ("t1", Facts(), "t1"),
        ("t1", Facts(**MPRAGE), "t1"),
        ("t1", Facts(contrast_agent="Gadovist", **T1), None),
        ("t1", Facts("t1 post gd"), None),
        ("t1ce", Facts("t1 post gd"), "t1ce"),
        ("t1", Facts("t2_tse"), None),
        ("t2", Facts(**FLAIR), None),
        ("swi", Facts(**GRE), "swi"),
    ],
)
def test_names_are_believed_unless_the_header_contradicts(named, facts, expected):
    assert propose(facts, named).sequence == expected
