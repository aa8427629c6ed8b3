"""``python -m columns NAME FILE``: the answers of columns/NAME.py, as JSON into the file."""

from __future__ import annotations

import importlib
import json
import sys

from columns.rows import ROWS, text


def main() -> None:
    column = importlib.import_module("columns." + sys.argv[1])
    questions = column.answers() if hasattr(column, "answers") else vars(column)
    cells = {row.key: text(questions[row.key]()) for row in ROWS if row.key in questions}
    answers = {"library": column.NAME, "version": column.version(), "cells": cells}
    if hasattr(column, "ways"):
        answers["ways"] = column.ways()
    with open(sys.argv[2], "w") as file:
        json.dump(answers, file)


main()
