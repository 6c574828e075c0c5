"""Groups of options that several commands have: a group is a function whose parameters are the options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any


def with_options(*groups: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of groups behind its own; it reads them from ``context.params``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        added = [p for group in groups for p in inspect.signature(group, eval_str=True).parameters.values()]
        parameters = [*own.parameters.values(), *added]

        @wraps(command)
        def run(**options: Any) -> None:
            command(**{name: options[name] for name in own.parameters})

        # what typer reads; keyword-only, because a command's own options may have no default
        run.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in parameters])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate
