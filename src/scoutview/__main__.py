"""`python -m scoutview`."""

from scoutview.cli import main

main()
