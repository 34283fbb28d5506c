"""``siteward-nvflare``: put the bridge into a FLARE startup kit, take it out, look whether all is well."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from siteward import SitewardError
from siteward_nvflare.kit import KitError, find_kit, install, uninstall

_KIT = click.argument("kit", type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run the jobs of an NVIDIA FLARE site through siteward.

    KIT is the folder of a server's or a client's startup kit, the one with `startup` and `local` in it.
    """


@main.command("install")
@_KIT
@click.option(
    "--site", "site_file", required=True, type=click.Path(path_type=Path), help="the siteward site file of this site"
)
@click.option(
    "--shared",
    multiple=True,
    metavar="BACKEND",
    help="a backend whose jobs see this machine's files at the same paths (may be given several times; "
    "replaces the default, which is process)",
)
def install_command(kit: Path, site_file: Path, shared: tuple[str, ...]) -> None:
    """Let siteward launch this site's jobs. Restart the site afterwards."""
    from siteward_nvflare.check import require_site

    try:
        found = find_kit(kit)
        require_site(found, site_file, shared)
        install(found, site_file, shared or None)
    except (SitewardError, KitError, OSError) as error:
        _fail(error)
    click.echo(f"{found.folder}: its jobs are launched by siteward as {site_file} says, once the site is restarted.")


@main.command("uninstall")
@_KIT
def uninstall_command(kit: Path) -> None:
    """Give the site its own launcher back. Restart the site afterwards."""
    try:
        found = find_kit(kit)
        uninstall(found)
    except (KitError, OSError) as error:
        _fail(error)
    click.echo(f"{found.folder}: FLARE launches its jobs again, once the site is restarted.")


@main.command("check")
@_KIT
def check_command(kit: Path) -> None:
    """Look at the kit, the site file and the site, and say what to do; exit code 1 when jobs cannot run."""
    from siteward_nvflare.check import check_kit

    try:
        findings = check_kit(find_kit(kit))
    except KitError as error:
        _fail(error)
    for each in findings:
        click.echo(f"{each.level:5} {each.subject}: {each.words}")
    sys.exit(1 if any(each.level == "fail" for each in findings) else 0)


def _fail(error: Exception) -> None:
    click.echo(f"siteward-nvflare: {error}", err=True)
    sys.exit(2)
