"""What libraries answer to the same small questions (`rows`): a file a library, each run in a process of its own.

A file has NAME, what its PACKAGE is called where versions are looked up, and for each row that it can answer a function
of the row's key without arguments, which returns a number, a list of numbers or words.
"""
