"""The demo corpus: real ultrasound that travels with pydicom, and simulated phantoms.

It needs no network and no account: `prepare` writes the inputs of the corpus `demo` into a folder, and
`openus build OUT --demo` builds the corpus from them. What is simulated is called so everywhere.

inputs     the folders that a build begins with
phantom, tissue    simulated pictures, and what is in them
page       the page at the end of the demo
"""

from __future__ import annotations

from pathlib import Path

from openus.catalogue import manifests_root

DEMO_MANIFESTS = manifests_root() / "demo"
"""Folder of the demo's manifests, kept apart from the 46 sources of OpenUS-46; pass it to `Catalogue`."""


def prepare(folder: Path, *, quiet: bool = False) -> dict[str, Path]:
    """Write the demo's inputs below `folder`; return where each source lies, by slug (for `--local`).

    Inputs that are already there and complete are left as they are. Takes about 20 s on one core, and shows
    its progress unless `quiet`.
    """
    from openus.demo.inputs import (
        write_inputs,
    )  # SciPy and Pillow are not needed by those who only ask for help

    return write_inputs(folder, quiet=quiet)
