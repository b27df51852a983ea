"""``python -m edgec``: the command line without an installed script."""

from edgec.cli import main

if __name__ == "__main__":
    main()
