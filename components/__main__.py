"""Run one step alone, without kfp.

python -m components STEP --ARGUMENT VALUE ... --output FILE.json

A manifest that another step made is given as its file, settings as JSON; `python -m components STEP --help` lists them.
"""

import argparse
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from edgedistill.errors import EdgeDistillError
from edgedistill.progress import Progress
from edgedistill.steps import Manifest, read_manifest
from edgedistill.storage import pretty_json


def main() -> None:
    """Parse what the step's `run()` takes, run it, write its manifest."""
    steps = sorted(path.parent.name for path in Path(__file__).parent.glob("*/run.py"))
    if len(sys.argv) < 2 or sys.argv[1] not in steps:
        sys.exit(f"components: name a step: {', '.join(steps)}")
    run = import_module(f"components.{sys.argv[1]}.run").run
    options = _parser(sys.argv[1], run).parse_args(sys.argv[2:])
    values = vars(options)
    output: Path = values.pop("output")
    values |= dict(values.pop("manifest", []))
    try:
        made = run(**values, progress=Progress())
    except EdgeDistillError as error:
        sys.exit(f"components: {error}")
    output.write_bytes(pretty_json(asdict(made)))


def _parser(step: str, run: Callable[..., Manifest]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m components {step}",
        description=inspect.getdoc(run),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = get_type_hints(run)
    for name, parameter in inspect.signature(run).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            parser.add_argument("--manifest", action="append", required=True, type=_named, metavar="STEP=FILE")
        elif name != "progress":
            parser.add_argument(f"--{name}", required=True, type=_reader(kinds[name]))
    parser.add_argument("--output", required=True, type=Path, help="file for the manifest")
    return parser


def _reader(kind: Any) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if kind is Manifest:
            return read_manifest(Path(text))
        return kind(text) if kind in (str, int) else json.loads(text)

    read.__name__ = "manifest file" if kind is Manifest else getattr(kind, "__name__", "JSON")
    return read


def _named(text: str) -> tuple[str, Manifest]:
    name, _, file = text.partition("=")
    return name, read_manifest(Path(file))


if __name__ == "__main__":
    main()
