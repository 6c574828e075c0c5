"""Help of a command with many options, in groups; help of a group of commands, with whole sentences."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

# characters of a first sentence: more than any has
WHOLE = 1000


class ListedCommands(TyperGroup):
    """Lists its commands with the first sentence of each, however long; lines are folded, never cut off."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [(name, each.get_short_help_str(WHOLE)) for name, each in commands if each and not each.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


class GroupedHelp(TyperCommand):
    """Lists options under the ``rich_help_panel`` that they name; those without one come first."""

    # typer carries a click of its own in newer versions: its types cannot be named for all of them
    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, group by group, in the order in which groups first appear."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and param.param_type_name == "option":
                groups.setdefault(getattr(param, "rich_help_panel", None) or "Options", []).append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)
