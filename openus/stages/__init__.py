"""The build: its stages in order, and what makes each of them resumable.

build      the stages: fetch, select, decode and clean, deduplicate, pack, describe
results    what became of each source
chunks     the unit of work: a handful of files, from bytes to encoded samples (`chunkspec`: what it is, `rows`: what
           describes the samples, `heap`: memory kept between files, `travel`: which files it reads and makes)
dedup      the decision, over all sources, which samples stay (`folder`: the same for any folder of pictures)
record     `corpus.json` and the notes beside it
ledger     fingerprints of inputs: what is done, and what must be done again
repair     what is damaged made again, and nothing else
"""
