"""``speechssl doctor``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Say whether a run is well, and what to change if not.")
@click.argument("exp", type=click.Path(path_type=Path))
@click.option(
    "--save-reference",
    metavar="RECIPE",
    type=click.Path(path_type=Path),
    help="Keep the curves of this finished run as the reference of RECIPE, in the folder "
    "reference/ beside it.",
)
@click.pass_context
def command(ctx: click.Context, exp: Path, save_reference: Path | None) -> None:
    """Examine the finished or running run in EXP.

    Shows each symptom that betrays a failing run with its present value and threshold, says in one
    line what is wrong and which setting to change, and draws EXP/curves.png, behind it the
    reference curves of the recipe where it has some. `gain` is the share by which the loss is below
    that of the best guess without audio. Exit status 1 if the run is sick now.

    \b
    Example:
      speechssl doctor exp/pretrain
      speechssl pretrain recipes/contrastive_tiny.yaml data exp/contrastive
      speechssl doctor exp/contrastive --save-reference recipes/contrastive_tiny.yaml
    """
    from speechssl.errors import RunFolderError
    from speechssl.tables import table
    from speechssl.training import reference
    from speechssl.training.curves import read_metrics
    from speechssl.training.doctor import checkup, episodes, examine, run_settings

    settings = run_settings(exp)
    rows = read_metrics(exp, "train")
    if not rows:
        raise RunFolderError(
            f"{exp}: has no reports yet (one each {settings['training.log_every']} updates)."
        )
    doctor, findings = examine(rows, read_metrics(exp, "valid"), settings)
    last = rows[-1]["Step"]
    click.echo(table([("symptom", "now", "sick when", "state"), *checkup(doctor.reading())]))
    click.echo(f"\nupdate {last} of {settings['training.updates']}")
    for line in episodes(findings, last) or ["nothing is wrong"]:
        click.echo(line)
    if save_reference is not None:
        click.echo(str(reference.save_reference(exp, save_reference)))
    click.echo(str(reference.draw_run(exp)))
    if findings and findings[-1].update == last:
        ctx.exit(1)
