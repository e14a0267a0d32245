"""The command `ummgat draw`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ummgat.cli.options import Overwrite
from ummgat.cli.terminal import comma_list, command, print_table, say


@command(panel="Data", example="ummgat draw cohort draw.json --mode strict")
def draw(
    cohort: Annotated[Path, typer.Argument(help="Prepared cohort.")],
    out: Annotated[Path, typer.Argument(help="JSON file to write.")],
    mode: Annotated[
        Literal["strict", "all"], typer.Option(help="One sequence per training patient, or whatever a patient has.")
    ],
    split: Annotated[Path | None, typer.Option(help="JSON with train, selection and test lists.")] = None,
    domains: Annotated[str | None, typer.Option(help="Domains to keep, in order: A/t1,A/t2,B/t1.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split and of the strict draw.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fix, before any training, who trains with which sequence, who may choose settings, and who only tests."""
    from ummgat.core.domain import Domain
    from ummgat.core.draw import make_draw
    from ummgat.core.files import require_new, write_json
    from ummgat.core.study import load_cohort

    require_new(out, overwrite)
    studies = load_cohort(cohort)
    drawn = make_draw(studies, mode, seed, comma_list(domains), split)
    write_json(out, drawn.model_dump(mode="json"))
    center_of = {study.subject: study.center for study in studies}
    table = []
    for name in drawn.domains:
        domain = Domain.parse(name)
        volumes = [s for s, q in drawn.train.items() if domain.sequence in q and center_of[s] == domain.center]
        table.append({"domain": name, "training volumes": str(len(volumes))})
    print_table(table)
    parts = f"{len(drawn.train)} training, {len(drawn.selection)} selection, {len(drawn.test)} test subjects"
    say(f"Draw {drawn.mode}, {parts}: {out}.")
