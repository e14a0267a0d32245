"""Scenarios and substitutes: names and rules."""

import pytest

from ummgat.evaluate.scenarios import Scenario, distribution, fixed_scenarios, random_scenario, substitutes_of

FOUR = ("t1", "t1ce", "t2", "flair")


def tried(missing, correlated=None, ranked=None, can_generate=FOUR):
    found = substitutes_of(Scenario.of(missing), FOUR, correlated or {}, ranked or {}, can_generate)
    return [(s.method, s.rule, s.source) for s in found]


def test_the_papers_fourteen():
    found = fixed_scenarios(FOUR)
    assert len(found) == len({s.missing for s in found}) == 14
    assert [len(s.missing) for s in found] == [1] * 4 + [2] * 6 + [3] * 4
    assert found[0].name == "t1"
    assert found[-1].name == "t1ce+t2+flair"
    assert len(fixed_scenarios(("t2",))) == 0


def test_random_scenario_is_a_function_of_subject_and_seed_and_leaves_one():
    found = [random_scenario(FOUR, f"s{i}", 0) for i in range(300)]
    assert found == [random_scenario(FOUR, f"s{i}", 0) for i in range(300)]
    assert found != [random_scenario(FOUR, f"s{i}", 1) for i in range(300)]
    counts = distribution(found)
    assert {k: v for k, v in counts.items() if k[0].isdigit()}.keys() == {"1 missing", "2 missing", "3 missing"}
    assert all(70 < counts[f"{n} missing"] < 130 for n in (1, 2, 3))
    assert all(110 < counts[f"{q} missing"] < 190 for q in FOUR)
    assert {s.name for s in found} == {"random"}


def test_nothing_missing_is_tried_once():
    assert tried(()) == [("complete", "", "")]


def test_every_single_source_by_every_method():
    found = tried(("flair",))
    assert found == [
        ("empty", "", ""),
        *(("copy", "single", q) for q in ("t1", "t1ce", "t2")),
        *(("matched", "single", q) for q in ("t1", "t1ce", "t2")),
        *(("generate", "single", q) for q in ("t1", "t1ce", "t2")),
        ("fuse", "", ""),
    ]


def test_the_papers_mixed_rows():
    assert ("generate", "paper", "t1:t1ce;t2:flair") in tried(("t1", "t2"))
    assert ("copy", "paper", "t1:t1ce;flair:t2") in tried(("t1", "flair"))
    assert ("copy", "paper", "t1ce:t1;t2:flair") in tried(("t1ce", "t2"))
    assert ("generate", "paper", "t1ce:t1;flair:t2") in tried(("t1ce", "flair"))
    for missing in (("t1", "t1ce"), ("t2", "flair")):
        assert not [s for s in tried(missing) if s[1] == "paper"]


def test_rules_choose_by_correlation_and_by_stored_criteria_and_appear_once():
    correlated = {("t1", "t1ce"): 0.9, ("t1", "flair"): 0.1, ("t2", "t1ce"): 0.2, ("t2", "flair"): 0.7}
    ranked = {"t1": ["t2", "flair"], "t2": ["flair", "t1"]}
    found = tried(("t1", "t2"), correlated, ranked)
    # correlation gives what the paper's mix gives: it appears once, under the first rule
    assert ("copy", "correlation", "t1:t1ce;t2:flair") in found
    assert not [s for s in found if s[1] == "paper"]
    # best available by criteria is flair for both, which is the single source flair already
    assert not [s for s in found if s[1] == "criteria"]
    assert len(found) == len(set(found))
    assert ("generate", "criteria", "t1:flair;t2:t1ce") in tried(("t1", "t2"), {}, ranked | {"t2": ["t1ce"]})


def test_correlation_is_not_offered_where_a_pair_is_unknown():
    assert not [s for s in tried(("t1",), {("t1", "t2"): 0.5}) if s[1] == "correlation"]


@pytest.mark.parametrize("can_generate", [("t1", "t2"), ()])
def test_what_the_model_does_not_know_is_not_generated(can_generate):
    found = tried(("t1",), can_generate=can_generate)
    assert [s[2] for s in found if s[0] == "generate"] == (["t2"] if can_generate else [])
    assert not [s for s in found if s[0] == "fuse"]
    assert not [s for s in found if s[0] == "matched"] or can_generate  # nor is there a histogram to match
    assert len([s for s in found if s[0] == "copy"]) == 3


def test_flood_stands_where_contrast_is_missing_and_the_atlas_where_a_model_has_one():
    assert ("flood", "single", "flair") in tried(("t1ce",))
    assert ("flood", "single", "t2") in tried(("t1ce", "flair"))
    assert ("flood", "single", "t1") in tried(("t1ce", "t2", "flair"))
    assert not [s for s in tried(("t1", "t2", "flair")) if s[0] == "flood"]
    with_atlas = substitutes_of(Scenario.of(("flair",)), FOUR, {}, {}, FOUR, has_atlas=True)
    assert [s.source for s in with_atlas if s.method == "atlas"] == ["t1", "t1ce", "t2"]
    assert not [s for s in tried(("flair",)) if s[0] == "atlas"]
