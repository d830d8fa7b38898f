"""`nodectl cloner fix-efiboot`: the boot entries of the running system."""

import json

import typer

from nodectl.boot.model import BootOrder
from nodectl.cli.cloner import cloner_app


def register(_app: typer.Typer) -> None:
    """Add this command beside the others of cv-cloner."""
    cloner_app.command("fix-efiboot")(fix_efiboot)


def fix_efiboot(
    boot_order: BootOrder = typer.Option(
        BootOrder.LEAVE, "--boot-order", help="What the firmware tries first."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would be written, and stop."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Mend the boot entries of this machine: they lead to the system that runs, and nothing else.

    Also puts the fallback loader (EFI/BOOT/BOOTX64.EFI) on each mounted EFI system partition that
    has none. What is right is not written: firmware memory wears.

    Status: 0 right now, 15/16 a program is missing or failed, 17 not root, 59 no loader to lead to,
    60 no UEFI, or its memory takes nothing.
    """
    from nodectl.node.efiboot import mend, plan_mending

    planned = plan_mending(boot_order)
    lines = planned.lines if dry_run else mend(planned, boot_order)
    if as_json:
        print(json.dumps({"written": not dry_run and bool(lines), "steps": list(lines)}))
        return
    print("\n".join(lines) if lines else "the boot entries and the fallback loader are right")
