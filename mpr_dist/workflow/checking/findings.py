"""What a check of a population found: every check counts, those that fail say what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from mpr_dist.errors import MprError
from mpr_dist.model.reading import counted

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Finding:
    """``level``: "error" when results would be wrong or a run fail, "warning" when it might be meant."""

    level: str
    subject: str
    text: str
    advice: str = ""

    @property
    def line(self) -> str:
        return f"{self.level.upper()}: {self.subject}: {self.text}{f'; {self.advice}' if self.advice else ''}"


@dataclass
class Findings:
    """A list that grows; ``checks`` counts what was looked at."""

    checks: int = 0
    found: list[Finding] = field(default_factory=list)

    def check(self, is_right: bool, subject: str, text: str, advice: str = "", level: str = ERROR) -> bool:
        """Count a check, and note what is wrong unless it is right; returns whether it is."""
        self.checks += 1
        if not is_right:
            self.found.append(Finding(level, subject, text, advice))
        return bool(is_right)

    @contextmanager
    def reading(self, subject: str, advice: str = "restore the file from a copy") -> Iterator[None]:
        """Count the body as a check that fails when a file cannot be read or contradicts another; it ends there."""
        self.checks += 1
        try:
            yield
        except MprError as error:
            self.found.append(Finding(ERROR, subject, " ".join(str(error).split()), advice))
        except OSError as error:
            self.found.append(Finding(ERROR, subject, f"{error.filename}: {error.strerror}", advice))

    def of(self, level: str) -> list[Finding]:
        return [finding for finding in self.found if finding.level == level]

    def table(self) -> dict[str, Any]:
        return {"checks": self.checks} | {
            f"{level}s": [asdict(finding) for finding in self.of(level)] for level in (ERROR, WARNING)
        }

    @property
    def lines(self) -> list[str]:
        errors, warnings = self.of(ERROR), self.of(WARNING)
        lines = list(dict.fromkeys(finding.line for finding in (*errors, *warnings)))  # a file may be read twice
        return [
            *lines,
            f"{counted(self.checks, 'check')}: {counted(len(errors), 'error')}, {counted(len(warnings), 'warning')}",
        ]
