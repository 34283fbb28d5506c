"""``python -m siteward``: the command line."""

from siteward.cli import main

if __name__ == "__main__":
    main(prog_name="siteward")
