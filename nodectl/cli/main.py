"""The command line: every command is registered here, and every error becomes a status here.

Modules of `cli/` parse, call one use case and print. They import what they need inside the command,
so that `--help` and `version` start at once. The result goes to stdout, the story to stderr.
"""

import errno
import logging
import os
import sys
from typing import Any

import typer

from nodectl.cli import (
    audit,
    bench,
    clone,
    cloner,
    cloner_image,
    cloner_parts,
    demo,
    disk,
    efiboot,
    image,
    installer,
    inventory,
    job,
    netboot,
    node,
    power,
    publisher,
    realm,
    realm_keys,
    serve,
    service,
    store,
    swarm,
    token,
    version,
)
from nodectl.errors import READ_ONLY_HINT, NodectlError

log = logging.getLogger(__name__)

STATUS_BUG = 1
STATUS_USAGE = 2
STATUS_SYSTEM = 19
STATUS_INTERRUPTED = 130

# click's UsageError, wherever this version of typer keeps its click.
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="nodectl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's help costs 0.1 s, and says the same
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Capture a machine, spread it as a swarm, clone it onto disks.",
)

for module in (
    demo, realm, realm_keys, token, serve, service, node, inventory, image, publisher, job, swarm,
    clone, power, cloner, cloner_image, cloner_parts, efiboot, installer, netboot, disk, store,
    bench, audit, version,
):  # fmt: skip
    module.register(app)


@app.callback()
def _options(
    verbose: int = typer.Option(
        0, "--verbose", "-v", count=True, help="-v tells more, -vv everything."
    ),
) -> None:
    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    logging.basicConfig(
        level=levels[min(verbose, 2)],
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )


def _report(error: NodectlError) -> int:
    print(f"nodectl: {error}", file=sys.stderr)
    if error.hint:
        print(f"  next: {error.hint}", file=sys.stderr)
    return error.exit_code


def main() -> None:
    """Run the command line and end the process with its status."""
    try:
        status = app(standalone_mode=False) or 0
    except NodectlError as error:
        status = _report(error)
    except _USAGE_ERROR as error:
        error.show()
        status = STATUS_USAGE
    except (KeyboardInterrupt, typer.Abort):
        print("nodectl: stopped; what was done so far is kept", file=sys.stderr)
        status = STATUS_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`nodectl ... | head`): not worth a word.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = STATUS_BUG
    except OSError as error:
        # The kernel's word, where no sentence of ours fits: still one line and a status.
        log.debug("the operating system refused", exc_info=True)
        print(f"nodectl: {error}", file=sys.stderr)
        if error.errno == errno.EROFS:
            print(f"  next: {READ_ONLY_HINT}", file=sys.stderr)
        status = STATUS_SYSTEM
    sys.exit(status)
