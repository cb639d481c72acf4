"""`python -m keeperd`."""

from keeperd.cli import main

main()
