"""The command line: what the commands are called, what they print, and how they end.

Every mistake of the user is one line on stderr and exit code 2, without a traceback. The commands
import what they run when they run, so that `--help` is quick.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click

from proxy import __version__
from proxy.cli.base import PROGRAM, examples
from proxy.cli.cache import cache
from proxy.cli.health import health
from proxy.cli.local import demo, rewrite, standin
from proxy.cli.serve import serve
from proxy.cli.users import htpasswd, token

_CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(
    context_settings=_CONTEXT,
    epilog=examples(
        f"{PROGRAM} demo",
        f"{PROGRAM} serve --registry 123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        f"{PROGRAM} serve --help",
    ),
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def commands() -> None:
    """A caching reverse proxy in front of Amazon ECR.

    It keeps layers near the builders, and lets every BuildKit export its cache to ECR.
    """


for _command in (serve, health, cache, token, htpasswd, standin, demo, rewrite):
    commands.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit. When whoever read the output has gone, click ends it with 1."""
    try:
        status = commands.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        _complain(error)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(128 + signal.SIGINT)
    sys.exit(status if isinstance(status, int) else 0)


def _complain(error: click.ClickException) -> None:
    """One line, whatever click would make of it."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    text = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        text = f"{text.rstrip('.')}; see {error.ctx.command_path} --help"
    click.echo(f"{PROGRAM}: {text}", err=True)
