"""``edgec targets``: what can be compiled for."""

from __future__ import annotations

import click

from edgec.cli.options import echo_json, json_option, print_table

__all__ = ["command"]


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List the targets."""
    from edgec.targets.profile import PLANNED, list_profiles

    profiles = list_profiles()
    if as_json:
        echo_json({"supported": profiles, "planned": PLANNED})
        return
    rows = [(name, "yes", description) for name, description in profiles.items()]
    print_table(("target", "supported", "description"), [*rows, *((n, "not yet", d) for n, d in PLANNED.items())])
