"""The command line: ``siteward``. Each command's module is imported when the command is used."""

from siteward.cli.app import main

__all__ = ["main"]
