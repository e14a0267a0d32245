"""Sections on the segmenter: every scenario and substitute, tests, effect sizes, and the choice by calibration."""

from collections.abc import Mapping, Sequence

from ummgat.evaluate.statistics import Summary
from ummgat.evaluate.tables import PAPER_SOURCE, REGION_ORDER, Cell, Treatment, friedman_of, on_common
from ummgat.report.figures import heatmap, label_of, scatter, single_missing
from ummgat.report.section import Section, Table

FRIEDMAN = (
    "Friedman test of empty, copy, matched, generate and fuse on the same subjects, each with the first source that is "
    "listed. Pairs by rank sums within subjects (Siegel and Castellan), Bonferroni within a scenario. Cohen's d "
    "divides the mean difference by the standard deviation pooled over these methods, as the paper does; it ignores "
    "pairing."
)

Paper = Mapping[tuple[str, str, str, str], Summary]


def scenario_sections(table: Sequence[Cell], paper: Paper, chosen: Mapping[str, Treatment] | None) -> list[Section]:
    """All that comes from the segmenter's results on the model's grid.

    Parameters
    ----------
    table : sequence of Cell
    paper : mapping
        Published rows to print beside ours; may be empty.
    chosen : mapping of scenario → Treatment, optional
        Of calibration; None without.
    """
    fixed = [c for c in table if c.treatment.scenario not in ("none", "random")]
    regions = [region for region in REGION_ORDER if any(c.region == region for c in table)]
    beside = [
        f"Paper: {PAPER_SOURCE}. Its segmenter saw far more data and 1 mm voxels; compare differences, not levels."
    ]
    sections = [
        Section(
            "Nothing missing",
            beside if paper else [],
            {"complete": dice_table([c for c in table if c.treatment.scenario == "none"], paper)},
        )
    ]
    if fixed:
        common = on_common(table)
        figures = {f"heatmap_{region}": heatmap(common, region) for region in regions}
        sections += [
            Section(
                "At a glance",
                ["Per scenario on the subjects that every substitute has, so that medians compare."],
                figures=figures | {"single_missing": single_missing(common), "scatter": scatter(table)},
                captions={
                    f"heatmap_{r}": f"Median Dice of {r} in every scenario, best source of each method" for r in regions
                }
                | {
                    "single_missing": "One sequence missing: every subject under every method, best source; dashed: "
                    "complete data",
                    "scatter": "Every subject, scenario and source: generated against copied from the same source",
                },
            ),
            Section("Every scenario, every substitute", [], {"scenarios": dice_table(fixed, paper)}, group="missing"),
            Section(
                "Do the methods differ at all?",
                [FRIEDMAN],
                {"friedman": friedman_table(fixed)},
                group="missing",
            ),
        ]
    if chosen is not None:
        note = [] if chosen else ["No scenario was calibrated."]
        sections.append(Section("Chosen on calibration subjects", note, {"auto": auto_table(chosen, table)}))
    random = [c for c in table if c.treatment.scenario == "random"]
    if random:
        sections.append(
            Section(
                "Random sequences missing",
                ["One to all but one per subject. Substitutes share a rule, not a source; n: subjects of a row."],
                {"random": dice_table(random, {})},
            )
        )
    sections.append(Section("95th percentile of surface distances", [], {"hd95": hd95_table(table)}, group="missing"))
    return sections


def dice_table(table: Sequence[Cell], paper: Paper) -> Table:
    """A row per scenario and substitute; per region our median [quartiles], the test against the copy, the paper's
    median.
    """
    rows: dict[Treatment, dict[str, str]] = {}
    for cell in table:
        t = cell.treatment
        row = rows.setdefault(t, {"missing": t.scenario, "substitute": label_of(t), "n": str(cell.summary.n)})
        row[cell.region] = str(cell.summary)
        if any(c.against_copy for c in table):
            row[f"{cell.region} vs copy"] = _test(cell)
        if paper:
            theirs = paper.get((t.scenario, t.method, t.source, cell.region)) if t.segmenter == "plain" else None
            row[f"{cell.region} paper"] = str(theirs) if theirs else ""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    return [{name: row.get(name, "") for name in names} for row in rows.values()]


def _test(cell: Cell) -> str:
    """Median difference from the same-source copy with its interval, and p (corrected where it is one of the
    tested).
    """
    c = cell.against_copy
    if c is None or c.n == 0:
        return ""
    text = f"{c.median_difference:+.3f} ({c.low:+.3f} to {c.high:+.3f})"
    if c.p is None:
        return f"{text}, no test possible"
    corrected = "" if cell.corrected_p is None else f", Holm {cell.corrected_p:.2g}"
    return f"{text}, p {c.p:.2g}{corrected}, r {c.effect:+.2f}"


def friedman_table(table: Sequence[Cell]) -> Table:
    """Per scenario and region: the test over methods, pairs with generate, and effect sizes."""
    rows = []
    for scenario in dict.fromkeys(c.treatment.scenario for c in table):
        plain = [c.treatment for c in table if c.treatment.scenario == scenario and c.treatment.segmenter == "plain"]
        first = {t.method: t for t in reversed(plain)}
        for region in REGION_ORDER:
            found = friedman_of(table, scenario, region, list(first.values()))
            if found is None:
                continue
            row = {"missing": scenario, "region": region, "methods": str(len(found.test.mean_ranks)), "n": str(found.n)}
            row |= {"chi2": f"{found.test.chi2:.2f}", "p": f"{found.test.p:.2g}"}
            generated = (
                next(name for name in found.test.mean_ranks if name.startswith("generate"))
                if ("generate" in first)
                else ""
            )
            for pair, p in found.test.pairs.items():
                if generated in pair:
                    other = pair[0] if pair[1] == generated else pair[1]
                    row[f"generate - {other.split()[0]}"] = f"p {p:.2g}, d {found.effect(generated, other):+.2f}"
            rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name, "") for name in names} for row in rows]


def hd95_table(table: Sequence[Cell]) -> Table:
    """Median [quartiles] in mm, and for how many subjects a distance exists at all."""
    rows: dict[Treatment, dict[str, str]] = {}
    for cell in table:
        t = cell.treatment
        row = rows.setdefault(t, {"missing": t.scenario, "substitute": label_of(t)})
        s = cell.hd95_summary
        row[f"{cell.region} mm"] = f"{s.median:.1f} [{s.q25:.1f}, {s.q75:.1f}]" if s.n else "none"
        row[f"{cell.region} n"] = str(s.n)
    return list(rows.values())


def auto_table(chosen: Mapping[str, Treatment], table: Sequence[Cell]) -> Table:
    """What calibration subjects chose, and what it came to on these."""
    rows = []
    for scenario, treatment in chosen.items():
        row = {"missing": scenario, "chosen on calibration subjects": label_of(treatment)}
        row |= {c.region: str(c.summary) for c in table if c.treatment == treatment}
        rows.append(row)
    return rows
