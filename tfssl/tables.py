"""The tables of a run folder: CSV files that a kill at any moment leaves readable."""

import csv
import os


class Table:
    """A CSV file that grows by rows; on opening, rows after `step`, of a run that was cut, are dropped."""

    def __init__(self, path, columns, step):
        self.path, self.columns = path, columns
        self.rows = rows = [row for row in read_table(path) if int(row["step"]) <= step]
        partial = path.with_name(f".{path.name}.partial")  # a kill at this moment must not cost the rows there are
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({key: row.get(key, "") for key in columns} for row in rows)
        os.replace(partial, path)

    def add(self, row):
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow({**dict.fromkeys(self.columns, ""), **row})


def read_table(path):
    """The complete rows of a CSV file; a last row that was cut in writing is left out."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if row["step"] and None not in row.values()]
