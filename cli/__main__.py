"""`python -m oodguard.cli`."""

from oodguard.cli.main import main

main()
