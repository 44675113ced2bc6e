"""Both commands from a checkout, without installing: ``python cli.py openus …`` and ``python cli.py usfmae …``."""

from __future__ import annotations

import typer

from openus.cli import app as openus
from openus.console import run
from usfmae.cli import app as usfmae

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
app.add_typer(openus, name="openus")
app.add_typer(usfmae, name="usfmae")

if __name__ == "__main__":
    run(app, "cli.py")
