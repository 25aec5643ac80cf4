"""The command ``harness``: options in, one call out; a user's mistake is one line and exit code 2."""

from __future__ import annotations

import errno
import sys

import click

from harness.cli.group import Group
from harness.cli.models import distill_command, models_group, tasks_group
from harness.cli.runs import (
    bench_command,
    check_grader_command,
    grade_command,
    report_command,
    sample_command,
    score_command,
)
from harness.cli.speed import curves_command, regress_command, throughput_command
from harness.records import InputError


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="reasoning-harness")
def cli() -> None:
    """Sample a Transformer teacher and its Mamba students under one clock, and draw what each second bought."""


for _command in (
    bench_command, sample_command, grade_command, score_command, check_grader_command, report_command,
    throughput_command, regress_command, curves_command, tasks_group, models_group, distill_command,
):  # fmt: skip
    cli.add_command(_command)


def main() -> None:
    """Entry point: exit code 2 for a user's mistake, 130 for Ctrl-C."""
    try:
        cli(standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "harness"
        _fail(f"{error.format_message().rstrip('.')}; see `{command} --help`")
    except click.ClickException as error:
        _fail(error.format_message())
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(f"no space left on the disk ({error.filename or 'run folder'}); make room and go on with --resume")
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped; what finished is kept, go on with --resume", err=True)
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        # torch.OutOfMemoryError, named: torch is imported by the commands that need it alone.
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
            raise
        _fail("out of memory; what finished is kept. Take fewer rows (budget.batch, --batch) or fewer new tokens")


def _fail(message: str) -> None:
    click.echo(f"harness: {' '.join(message.split())}", err=True)
    sys.exit(2)
