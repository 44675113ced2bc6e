"""Where files lie: a folder of this machine, one that all machines share, or object storage.

depot      what a build asks of the place that keeps its files; a folder is the simplest one
bucket     the same in object storage; a folder of this machine stands in for it
choose     the depot of an address
claim      one builder at a time where files cannot be locked
locks      one process at a time where they can; what a disk refuses, as one clear line
places     a corpus read from anywhere: a path, `https://`, `s3://`, `hf://`
pieces     parts of files, wherever these lie
files      writing a file whole or not at all; Parquet, the same bytes each time
"""
