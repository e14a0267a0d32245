"""The command `ummgat doctor`."""

import json
from typing import Annotated

import typer

from ummgat.cli.terminal import (
    command,
    errors,
    print_table,
)


@command(panel="Use", example="ummgat doctor")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show versions, devices, the right precision, extras, bundled weights and free disk space."""
    from ummgat import doctor as doctors

    found = doctors.examine()
    if as_json:
        print(json.dumps(found.as_json(), indent=1, ensure_ascii=False))
    else:
        print_table([{"what": topic, "found": text} for topic, text in doctors.rows(found)])
        for problem in found.problems:
            errors.print(problem, style="bold red", soft_wrap=True)
    if found.problems:
        raise typer.Exit(1)
