"""`python -m ridgeline`: the command, where its folder is not on the path."""

from ridgeline.cli.main import main

if __name__ == "__main__":
    main()
