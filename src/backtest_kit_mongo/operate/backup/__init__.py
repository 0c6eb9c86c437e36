"""Backups: a directory that holds a database, or a directory of files, as it was at one moment.

`archive.py` is the directory, `dumping.py` fills it from MongoDB and `loading.py` brings it back; `files.py` does both
for the file backend.
"""
