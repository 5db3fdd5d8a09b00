"""A data set to look at: its card, rows, plots as a page on this machine, or as one HTML file.

`repository` finds the files in a folder or on the Hub, `rows` and `search` read their Parquet by row groups, `page`
makes HTML of them, `server` and `export` bring it to a browser. Every text and picture in the files is a stranger's.
"""
