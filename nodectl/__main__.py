"""`python -m nodectl`."""

from nodectl.cli.main import main

main()
