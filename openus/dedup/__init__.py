"""Copies: fingerprints, exact and near search, comparison by pixels, and one decision over all sources.

hashes     what tells pictures apart: the hash of their pixels, and perceptual ones
prints     views of a picture, and the fingerprints of these
search     all pairs of hashes within a distance, exactly (`slabs`: in memory that is limited)
compare    are two pictures the same? By their pixels
near       near-copies among all pictures of a build, what was compared before used again
cine       frames of a clip that hardly differ
decide     which of the copies stays
"""
