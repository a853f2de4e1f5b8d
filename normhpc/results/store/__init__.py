"""What was read of the records, kept so that a second look reads only what changed. Disposable: it changes no table.

=============== ======================================================================================
``folder``      where the cache of a folder of records lies, and files in it that are whole or absent
``documents``   ``run.json`` and ``summary.json`` of every run
``lines``       ``metrics.jsonl`` into columns of numbers
``reading``     many of these files at once
``metrics``     these columns, of every run
``marks``       whether a file is the one that was read
``garbage``     Python's garbage collector, and when it is in the way
=============== ======================================================================================
"""
