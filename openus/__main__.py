"""``python -m openus`` is the command `openus`, where its script is not on the path."""

from openus.cli import main

main()
