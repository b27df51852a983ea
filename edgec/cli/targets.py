"""``edgec targets``: what can be compiled for."""

from __future__ import annotations

import click

from edgec.cli.options import echo_json, json_option, print_table

__all__ = ["command"]


def _named() -> dict[str, str]:
    """Targets that no board file describes: other names, and any GPU in a PC or server."""
    from edgec.targets.cuda.architectures import ARCHITECTURES
    from edgec.targets.profile import ALIASES

    oldest, newest = min(ARCHITECTURES), max(ARCHITECTURES)
    return {
        **{name: f"the same as {meant}" for name, meant in ALIASES.items()},
        "cuda:sm_XX": f"NVIDIA GPU of an x86-64 machine, sm_{oldest} to sm_{newest}",
    }


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List the targets."""
    from edgec.targets.profile import PLANNED, list_profiles

    profiles = list_profiles()
    if as_json:
        echo_json({"supported": profiles | _named(), "planned": PLANNED})
        return
    rows = [(name, "yes", description) for name, description in (profiles | _named()).items()]
    print_table(("target", "supported", "description"), [*rows, *((n, "not yet", d) for n, d in PLANNED.items())])
