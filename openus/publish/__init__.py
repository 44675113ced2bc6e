"""Publishing: what the licences allow goes to the Hugging Face Hub or any store; of the rest, only how to rebuild it.

gate     which class of licence a sample belongs to, or why it stays at home
checks   a corpus goes up only after `openus verify` and `openus audit`
plan     which samples go into which repository, and how many bytes that is
stage    the repositories as folders: shards, manifests, card, notices, sidecars
card, croissant, citations    the documents of a repository
recipe   rows without pixels, from which the same shards are built where the data are
rebuild  the build from a recipe, and its proof
hub, targets   moving the folders: Hugging Face Hub; a folder, `s3://`, anything fsspec knows
"""
