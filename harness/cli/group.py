"""A group of commands that names the nearest one for a wrong name."""

from __future__ import annotations

from typing import Any

import click

from harness.records import nearest


class Group(click.Group):
    """Names the nearest command for a wrong one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            raise click.UsageError(f"no command {args[0]!r}; {nearest(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)
