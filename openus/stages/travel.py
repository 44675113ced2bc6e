"""What decoding and packing read and make: where files must travel, this says which."""

from __future__ import annotations

from openus.shards.pack import ShardTask
from openus.stages.chunkspec import ChunkSpec
from openus.storage.depot import Files


def chunk_files(spec: ChunkSpec) -> Files:
    """Decoding and cleaning: from the source's own files to samples and their rows."""
    made = spec.bytes_path, spec.rows_path
    return Files(needs=spec.tree.roots, gives=made, back=(spec.rows_path,))


def shard_files(task: ShardTask) -> Files:
    """Packing; the samples themselves are read piece by piece from where they are."""
    back = task.manifest_path, task.marker
    return Files(needs=(task.plan,), gives=(task.tar_path, *back), back=back)
