"""Tables on the terminal, and lines of equal columns elsewhere."""

import sys

WIDE = 1000  # columns where the output is no terminal: no line is broken


def show(title, titles, rows):
    """Prints a table.

    Args:
        title: String, printed above.
        titles: Strings, one per column.
        rows: Sequences of values, of which numbers are aligned to the right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout, width=None if terminal else WIDE, highlight=False, soft_wrap=False
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    rows = [list(row) for row in rows]
    for number, name in enumerate(titles):
        numbers = all(isinstance(row[number], int | float) for row in rows)
        table.add_column(Text(name), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row))  # as text: no markup in names
    console.print(table)
