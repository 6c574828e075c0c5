"""STAR files: the tables of RELION, Warp and M.

Reading keeps text as text where it names something: a series called "01006" must not become the number 1006. Writing
makes plain tables (``loop_``, numbered columns, blanks between values), which is all that Warp's parser understands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.storage.atomic import write_atomically

if TYPE_CHECKING:
    import pandas as pd

_IS_TEXT = re.compile(r"Name|File|Path|Hash|GUID|CtfImage|VisibleFrames")


@dataclass
class _Block:
    """One data block while it is being read: a loop has columns, anything else has pairs."""

    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    pairs: dict[str, str] = field(default_factory=dict)
    is_loop: bool = False


def read_blocks(path: Path) -> dict[str, pd.DataFrame | dict[str, Any]]:
    """Every block by name: loops as data frames, lists of single values as dictionaries.

    Numbers become int64 or float64, except in columns that hold names, files or hashes. NaN and infinities written in
    the file are returned as such: what they mean is for the reader of the table to say.

    Raises:
        InputError: missing, unreadable, not STAR, without any block, or a row with too many or too few values.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a STAR file (not text)") from error
    blocks = _parse(path, text)
    if not blocks:
        raise InputError(f"{path}: no data block found; a STAR file has lines that start with 'data_'")
    return {name: _as_frame(block) if block.is_loop else _as_values(block) for name, block in blocks.items()}


def _parse(path: Path, text: str) -> dict[str, _Block]:
    blocks: dict[str, _Block] = {}
    block: _Block | None = None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("data_") and len(line.split()) == 1:
            if line[5:] in blocks:
                raise InputError(f"{path}, line {number}: block '{line}' occurs twice")
            block = blocks[line[5:]] = _Block()
        elif block is None:
            raise InputError(f"{path}, line {number}: not a STAR file, expected 'data_...', got '{line[:40]}'")
        else:
            _add_line(block, line, f"{path}, line {number}")
    return blocks


def _add_line(block: _Block, line: str, where: str) -> None:
    if line == "loop_":
        if block.is_loop or block.pairs:
            raise InputError(f"{where}: a second 'loop_' in one block; every table needs its own 'data_' line")
        block.is_loop = True
    elif line.startswith("_") and not block.rows:
        fields = _split(line, where)
        name = fields[0][1:]
        if name in block.columns or name in block.pairs:
            raise InputError(f"{where}: column '{name}' occurs twice")
        if block.is_loop:
            block.columns.append(name)
        else:
            # RELION writes a label with nothing behind it for an empty text
            block.pairs[name] = fields[1] if len(fields) > 1 and not fields[1].startswith("#") else ""
    elif block.is_loop:
        _add_row(block, line, where)
    else:
        raise InputError(f"{where}: expected a label that starts with '_', got '{line[:40]}'")


def _add_row(block: _Block, line: str, where: str) -> None:
    fields = _split(line, where)
    n = len(block.columns)
    if len(fields) > n and fields[n].startswith("#"):
        fields = fields[:n]
    if len(fields) != n:
        raise InputError(f"{where}: expected {n} values (one per column), got {len(fields)}; is the file cut off?")
    block.rows.append(fields)


def _split(line: str, where: str) -> list[str]:
    fields = line.split()
    if not any(f[0] in "\"'" for f in fields):
        return fields
    try:
        return shlex.split(line)
    except ValueError as error:
        raise InputError(f"{where}: a quotation mark is not closed") from error


def _as_frame(block: _Block) -> pd.DataFrame:
    import pandas as pd

    columns = zip(*block.rows, strict=True) if block.rows else [()] * len(block.columns)
    typed = {name: _typed(name, values) for name, values in zip(block.columns, columns, strict=True)}
    return pd.DataFrame(typed, columns=block.columns)


def _as_values(block: _Block) -> dict[str, Any]:
    return {name: _typed(name, [text])[0] for name, text in block.pairs.items()}


def _typed(name: str, values: Sequence[str]) -> Any:
    if _IS_TEXT.search(name) or not values or any("_" in v for v in values):  # Python reads 1_0 as 10
        return np.array(values, dtype=object)
    for kind, make in ((np.int64, int), (np.float64, float)):
        try:
            return np.array([make(v if v != "<NA>" else "nan") for v in values], dtype=kind)
        except (ValueError, OverflowError):
            continue
    return np.array(values, dtype=object)


def write_table(path: Path, blocks: Mapping[str, pd.DataFrame | Mapping[str, Any]]) -> None:
    """Write loops (data frames) and lists of values (mappings), atomically; the same content gives the same bytes.

    Floats get the fewest digits that read back as the same number. Text with blanks, and empty text, is quoted as
    RELION does; Warp cannot read quoted text, so tables for Warp must not contain any.

    Raises:
        InputError: a number that is not finite, or text with a line break.
    """
    path = Path(path)
    lines = [line for name, block in blocks.items() for line in _lines_of(path, name, block)]
    write_atomically(path, ["\n".join(lines).encode()])


def _lines_of(path: Path, name: str, block: pd.DataFrame | Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"data_{name}", "")
    if isinstance(block, Mapping):
        yield from (f"_{key} {_text(value, path, key, 1)}" for key, value in block.items())
    else:
        yield "loop_"
        yield from (f"_{column} #{i}" for i, column in enumerate(block.columns, 1))
        columns = [
            [_text(value, path, str(column), row) for row, value in enumerate(block[column].to_numpy(), 1)]
            for column in block.columns
        ]
        yield from (" ".join(row) for row in zip(*columns, strict=True))
    yield ""


def _text(value: Any, path: Path, column: str, row: int) -> str:
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        if not np.isfinite(value):
            raise InputError(f"{path}: column {column}, row {row}: {value} is not a finite number; not written")
        return str(value) if isinstance(value, np.float32) else repr(float(value))
    text = str(value)
    if "\n" in text or "\r" in text or '"' in text:
        raise InputError(f"{path}: column {column}, row {row}: text must not hold line breaks or double quotes")
    return f'"{text}"' if not text or text[0] in "#_'" or any(c.isspace() for c in text) else text
