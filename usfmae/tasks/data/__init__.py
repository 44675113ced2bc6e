"""What the tasks learn from: the labelled samples of a set, or files that a person gives.

Rows of a corpus become pixels (`pixels`, `square`) and targets (`labels`), whole sets of them with identities
(`labelled`) and a division into training, validation and test (`splits`); files are opened and prepared the same way
(`files`). Hands on `LabelledSet`, `Split` and `Prepared` frames.
"""
