"""The `edgedistill` command. Each sub-command imports what it needs when it runs, so `--help` is quick."""

import sys
from pathlib import Path

import click
from rich.console import Console

from edgedistill import __version__
from edgedistill.cli_ask import ask
from edgedistill.cli_fleet import fleet
from edgedistill.cli_gc import collect_garbage
from edgedistill.cli_release import release
from edgedistill.cli_runs import runs_group
from edgedistill.cli_watch import watch
from edgedistill.config import PRESETS, run_config, with_labels, with_names
from edgedistill.errors import EdgeDistillError
from edgedistill.place import Place, placed
from edgedistill.terminal import StepBars, results_table


def main() -> None:
    """Entry point: one sentence and a non-zero exit for every error that is ours."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit("edgedistill: interrupted; the same command goes on from what is complete")
    except EdgeDistillError as error:
        sys.exit(f"edgedistill: {error}")


@click.group()
@click.version_option(__version__)
def cli() -> None:
    """Distil a big image classifier into a small signed int8 student."""


@cli.command()
@click.option("--data", help="Folder, tar, .csv or .parquet of images, or torchvision:NAME; else the demo.")
@click.option("--teacher", help="FILE.onnx, timm:NAME[@FILE] or torchvision:NAME[@FILE]; else one is trained.")
@click.option(
    "--teacher-labels",
    type=click.Path(path_type=Path),
    help="CSV of teacher,class: which of the teacher's classes make each of yours.",
)
@click.option("--preset", default="cpu", show_default=True, help=f"One of {', '.join(PRESETS)}.")
@click.option("--set", "overrides", multiple=True, metavar="STEP.FIELD=VALUE", help="One setting, repeatable.")
@click.option("--labeled-fraction", type=float, help="Share of the training labels that may be used; all of your own.")
@click.option("--feedback", is_flag=True, help="Train on the pictures too that the fleet was unsure about.")
@placed
def run(
    data: str | None,
    teacher: str | None,
    teacher_labels: Path | None,
    preset: str,
    overrides: tuple[str, ...],
    labeled_fraction: float | None,
    feedback: bool,
    place: Place,
) -> None:
    """Run the pipeline: images and a teacher in, a signed int8 student out."""
    from edgedistill.demo import DEMO_SHARE
    from edgedistill.local_copy import local_report
    from kfp_pipelines.embedded import ask_local_node, run_embedded

    overrides += ("ingest.feedback=true",) if feedback else ()
    config = with_labels(
        run_config(preset, overrides, own_data=bool(data)), labeled_fraction, own=bool(data), overrides=overrides
    )
    if data:
        config = with_names(config, data, overrides=overrides)
    with StepBars() as bars:
        record = run_embedded(
            place,
            config,
            data=data,
            teacher=teacher,
            teacher_labels=teacher_labels,
            demo_share=DEMO_SHARE.get(preset, 1.0),
            on_event=bars.show,
        )
    answer = ask_local_node(place, record)
    console = Console()
    console.print(results_table(record))
    for note in record["notes"]:
        console.print(f"Note: {note}", soft_wrap=True)
    expected = f", its label is {answer.expected!r}" if answer.expected else ""
    console.print(f"A local node serves release {answer.version}: {answer.source} is {answer.label!r}{expected}")
    report = local_report(place.open(), record["run_id"], place.folder / "reports")
    console.print(f"Report: {report}", soft_wrap=True)


for group in (runs_group, collect_garbage, release, fleet, watch, ask):
    cli.add_command(group)

if __name__ == "__main__":
    main()
