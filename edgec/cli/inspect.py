"""``edgec inspect``: what is in a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgec.cli.options import echo_json, json_option, print_table

if TYPE_CHECKING:
    from edgec.bundle import Bundle

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
        echo_json({**loaded.manifest, "glibc": loaded.glibc, "compile": report})
        return
    target, memory, files = (loaded.manifest[key] for key in ("target", "memory", "files"))
    assert isinstance(target, dict) and isinstance(memory, dict) and isinstance(files, dict)
    click.echo(f"{loaded.name}: {loaded.precision}, schema {loaded.manifest['schema_version']}")
    click.echo(f"  target   {target['name']}: {target['description']}")
    for line in _needs(loaded, report):
        click.echo(f"  needs    {line}")
    for kind in ("inputs", "outputs"):
        for info in getattr(loaded, kind):
            click.echo(f"  {kind[:-1]:8} {info}")
    click.echo(f"  memory   parameters {_kib(memory['params_bytes'])}, arena {_kib(memory['arena_bytes'])}"
               f" (at least {_kib(memory['arena_bound_bytes'])} are live at once)")  # fmt: skip
    click.echo(f"  steps    {report['steps']} calls of {report['kernels']} kernels")
    if loaded.float32_products:
        click.echo(f"  float32  {len(loaded.float32_products)} products: {', '.join(loaded.float32_products)}")
    click.echo(f"  made by  edgec {loaded.manifest['edgec']}, "
               + ", ".join(f"{k} {v}" for k, v in dict(loaded.manifest["toolchain"]).items()))  # type: ignore[call-overload]  # fmt: skip
    if "device_code" in report:
        _print_device_code(report["device_code"])
    print_table(("file", "KiB", "SHA-256"), [
        (name, f"{entry['size_bytes'] / 1024:.1f}", entry["sha256"][:16]) for name, entry in files.items()
    ])  # fmt: skip


def _needs(bundle: Bundle, report: dict[str, Any]) -> list[str]:
    """What there must be on the device, in words."""
    target = bundle.manifest["target"]
    assert isinstance(target, dict)
    features = target["cpu_features_required"]
    needs = [target["arch"] + (f" with {', '.join(features)}" if features else "")]
    if bundle.glibc is not None:
        needs.append(f"glibc {bundle.glibc} or newer")
    drivers: dict[str, set[str]] = {}
    for kernel in report.get("device_code", ()):
        for image in kernel["images"]:
            drivers.setdefault(image["driver"], set()).add(image["architecture"])
    needs += [
        f"a driver of CUDA {driver} or newer, for {', '.join(sorted(found))}" for driver, found in drivers.items()
    ]
    fallback = bundle.manifest.get("fallback")
    if isinstance(fallback, dict):
        needs.append(f"or, without a GPU, a CPU with {', '.join(fallback['cpu_features_required'])}")
    return needs


def _print_device_code(kernels: list[dict[str, Any]]) -> None:
    """A row per kernel and architecture; what later GPUs' drivers compile has no figures yet."""
    rows = []
    for kernel in kernels:
        for image in kernel["images"]:
            takes = [image.get(key, "-") for key in ("registers", "shared_bytes", "spill_bytes")]
            extents = ("x".join(map(str, kernel[key])) for key in ("grid", "block"))
            rows.append(
                (kernel["kernel"], image["architecture"], *extents, *takes, f"{image['size_bytes'] / 1024:.1f}")
            )
    print_table(("kernel", "code", "grid", "block", "registers", "shared B", "spills B", "KiB"), rows)


def _kib(size_bytes: int) -> str:
    return f"{size_bytes / 1024:.1f} KiB"
