"""The corpus folder: its rows, its tar shards and manifests, written and checked.

schema     the row of a sample, and of what was not kept
codecs     pictures to bytes
writer     a shard and its manifest, the same bytes each time
pack       the samples of a set, in a seeded shuffle, as shards
corpus     reading and writing `corpus.json`; copies of it and its neighbours: `keep`
stats      counts over the manifests
verify     does every byte stand where the rows say?
foreign    shards that others made, given an index
leaks      patients and copies on both sides of an official split
"""
