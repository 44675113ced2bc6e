"""A small corpus and a small recipe, shared by the tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.corpus import make_corpus

# A network of about 20 thousand parameters on 32-pixel images: a step takes a few milliseconds.
TINY = [
    "model.size=tiny", "model.embed_dim=24", "model.depth=2", "model.num_heads=2", "model.img_size=32",
    "model.patch_size=8", "model.decoder_embed_dim=16", "model.decoder_depth=1", "model.decoder_num_heads=2",
    "training.epochs=3", "training.batch_size=8", "training.precision=fp32", "report.log_every=1",
    "report.save_every=4", "report.tensorboard=false", "report.pictures=0", "report.figure=false",
]  # fmt: skip


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """44 images for pretraining: 6 steps an epoch at batch 8, the last one padded."""
    return make_corpus(tmp_path_factory.mktemp("train") / "corpus", {"pretrain": 44, "bus-bra": 40}, size=48)
