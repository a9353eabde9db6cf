"""``python -m firstlight``: the command line."""

from firstlight.cli import main

if __name__ == "__main__":
    main()
