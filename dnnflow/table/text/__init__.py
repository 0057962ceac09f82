"""Turn bytes into blocks of typed columns, with errors that name row, line and column.

Start at `source_text` and `csv_reader`. Nothing here writes a dataset.
"""
