"""``edgec inspect``: what is in a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgec.cli.options import echo_json, json_option, print_table

__all__ = ["command"]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@json_option
def command(bundle: Path, as_json: bool) -> None:
    """Show inputs, outputs, target, sizes and how BUNDLE was made."""
    import edgec

    loaded = edgec.load(bundle)
    report = json.loads((loaded.folder / "reports" / "compile.json").read_text())
    if as_json:
        echo_json({**loaded.manifest, "compile": report})
        return
    target, memory, files = (loaded.manifest[key] for key in ("target", "memory", "files"))
    assert isinstance(target, dict) and isinstance(memory, dict) and isinstance(files, dict)
    click.echo(f"{loaded.name}: {loaded.precision}, schema {loaded.manifest['schema_version']}")
    click.echo(f"  target   {target['name']}: {target['description']}")
    click.echo(f"  needs    {target['arch']} with {', '.join(target['cpu_features_required'])}")
    for kind in ("inputs", "outputs"):
        for info in getattr(loaded, kind):
            click.echo(f"  {kind[:-1]:8} {info}")
    click.echo(f"  memory   parameters {_kib(memory['params_bytes'])}, arena {_kib(memory['arena_bytes'])}"
               f" (at least {_kib(memory['arena_bound_bytes'])} are live at once)")  # fmt: skip
    click.echo(f"  steps    {report['steps']} calls of {report['kernels']} kernels")
    click.echo(f"  made by  edgec {loaded.manifest['edgec']}, "
               + ", ".join(f"{k} {v}" for k, v in dict(loaded.manifest["toolchain"]).items()))  # type: ignore[call-overload]  # fmt: skip
    print_table(("file", "KiB", "SHA-256"), [
        (name, f"{entry['size_bytes'] / 1024:.1f}", entry["sha256"][:16]) for name, entry in files.items()
    ])  # fmt: skip


def _kib(size_bytes: int) -> str:
    return f"{size_bytes / 1024:.1f} KiB"
