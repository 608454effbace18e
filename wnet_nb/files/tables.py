"""Tables as CSV: written plainly, and read also as spreadsheet programs save them again."""

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from wnet_nb.errors import UserError
from wnet_nb.whole_file import write_whole


def write_table(path: Path, columns: Collection[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows with comma, decimal point and UTF-8, whole, in place of an earlier table.

    What a row lacks, None and NaN become empty cells.
    """

    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            for row in rows:  # NaN is the one value that differs from itself
                writer.writerow({name: cell for name, cell in row.items() if cell == cell})

    write_whole(path, write)


def read_table(
    path: str | Path, needed: Sequence[str] = ()
) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Return the headings, and for every line that is not empty its place in words and its cells.

    Between cells may be commas, semicolons or tabs; cells are heading to text. UserError if the
    file cannot be read, a heading that is needed is not there, or a line has too few cells.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        rows = list(csv.reader(lines, delimiter=max(",;\t", key=lines[0].count) if lines else ","))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"'{path}' cannot be read as a table ({error}); give a CSV file") from error
    rows = [[cell.strip() for cell in row] for row in rows] or [[]]
    names, found = rows[0], []
    for name in needed:
        if name not in names:
            raise UserError(
                f"'{path}' has no column '{name}' (its headings: {', '.join(names)[:80]})"
            )
    for number, row in enumerate(rows[1:], start=2):
        where = f"line {number} of '{path}'"
        if len(row) < len(names) and any(row):
            raise UserError(f"{where} is cut short; correct or remove it")
        if any(row):
            found.append((where, dict(zip(names, row, strict=False))))
    return names, found


def to_number(text: str, where: str) -> float:
    """Return the number of a cell, with point or comma; UserError naming `where` if it is none."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise UserError(f"{where} is '{text}' and no number; save it as plain CSV") from None


def read_points(path: str | Path) -> np.ndarray:
    """Read points, such as the centres of cells: (n, 3) float64, (z, y, x), in voxels as a rule.

    Columns z, y and x may have any order and case, or be napari's axis-0, axis-1 and axis-2; others
    are left aside. UserError if they are missing, or a cell is not a finite number.
    """
    headings, rows = read_table(path)
    names = {heading.lower(): heading for heading in headings}
    wanted = ["z", "y", "x"] if {"z", "y", "x"} <= names.keys() else ["axis-0", "axis-1", "axis-2"]
    if not set(wanted) <= names.keys():
        raise UserError(
            f"'{path}' has no columns z, y and x (its headings: {', '.join(headings)[:80]}); "
            "name them so"
        )
    points = np.empty((len(rows), 3))
    for point, (where, cells) in zip(points, rows, strict=True):
        point[:] = [to_number(cells[names[name]], f"{name} in {where}") for name in wanted]
        if not np.isfinite(point).all():
            raise UserError(f"{where} is not a point: {point}; correct or remove it")
    return points
