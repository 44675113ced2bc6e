"""How good the features are while they are being learned: k-NN and a linear probe on a labelled set.

Quick and frozen, on one split by patient: a trend to watch, not a result to report (see `usfmae finetune`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from openus.errors import UsageError, did_you_mean
from usfmae.model.mae import MAE
from usfmae.model.painting import Grey
from usfmae.stream.index import Index
from usfmae.train.pictures import draw_rows, stretched
from usfmae.train.recipe import Recipe

MOST = 4000  # samples looked at
NEIGHBOURS = 20
BATCH = 64

Ints = NDArray[np.int64]


class Probe:
    """The labelled samples of the recipe's `report.probe_set`, decoded once and split once.

    Raises `UsageError` for a label that no sample of the set has.
    """

    def __init__(self, index: Index, recipe: Recipe) -> None:
        label = recipe.report.probe_label
        table = index.table
        labels = [dict(row).get(label, "") for row in table.column("labels").to_pylist()]
        if not any(labels):
            known = sorted({name for row in table.column("labels").to_pylist()[:1000] for name, _ in row})
            raise UsageError(
                f"report.probe_label '{label}': no sample of the set '{index.set}' has it; "
                f"known: {', '.join(known) or 'none'}{did_you_mean(label, known)}"
            )
        rows = [row for row in draw_rows(index.count, index.count, 0) if labels[row]]
        rows = [rows[i] for i in draw_rows(len(rows), MOST, recipe.training.seed)]
        self.classes = sorted({labels[row] for row in rows})
        self.targets = np.array([self.classes.index(labels[row]) for row in rows])
        self.images = stretched(index, rows, recipe.model.img_size)
        columns = [table.column(name).to_pylist() for name in ("patient", "clip", "cluster")]
        groups = [next((c[row] for c in columns if c[row]), str(row)) for row in rows]
        self.train = np.array([in_train(group) for group in groups])
        if len(set(self.targets[self.train])) < 2 or len(set(self.targets[~self.train])) < 2:
            raise UsageError(
                f"report.probe_set '{index.set}': {len(rows)} samples with the label '{label}' do not give two "
                "classes on each side of a split by patient; choose a larger set or another label"
            )

    def scores(self, mae: MAE) -> dict[str, float]:
        """Balanced accuracy of k-NN and of a linear probe on the held-out half, and what chance would give."""
        features = pooled(mae, self.images)
        x, y, test, truth = (
            features[self.train],
            self.targets[self.train],
            features[~self.train],
            self.targets[~self.train],
        )
        return {
            "knn": balanced_accuracy(truth, nearest(x, y, test, len(self.classes))),
            "linear": balanced_accuracy(truth, linear(x, y, test)),
            "chance": 1 / len(set(truth.tolist())),
        }


def in_train(group: str) -> bool:
    """Half of the groups, always the same half."""
    return hashlib.sha256(group.encode()).digest()[0] % 2 == 0


@torch.no_grad()
def pooled(mae: MAE, images: Grey) -> NDArray[np.float32]:
    """The mean over patches of the last tokens: uint8 [n,S,S] -> float32 [n,D]."""
    device = next(mae.parameters()).device
    mean = torch.tensor(mae.config.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(mae.config.std, device=device).view(1, -1, 1, 1)
    was_training = mae.training
    mae.eval()
    parts = []
    for start in range(0, len(images), BATCH):
        x = torch.from_numpy(images[start : start + BATCH]).to(device)[:, None].float() / 255
        parts.append(mae.features((x - mean) / std)[:, 1:].mean(dim=1).float().cpu())
    mae.train(was_training)
    return torch.cat(parts).numpy()


def nearest(x: NDArray[np.float32], y: Ints, test: NDArray[np.float32], classes: int) -> Ints:
    """Vote of the nearest neighbours by cosine, each vote weighted by its class's rarity."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    near = (test / np.linalg.norm(test, axis=1, keepdims=True)) @ unit.T
    order = np.argsort(-near, axis=1, kind="stable")[:, :NEIGHBOURS]
    rarity = 1 / np.maximum(np.bincount(y, minlength=classes), 1)
    votes = np.zeros((len(test), classes))
    for number in range(classes):
        votes[:, number] = (y[order] == number).sum(axis=1) * rarity[number]
    return np.asarray(votes.argmax(axis=1), np.int64)


def linear(x: NDArray[np.float32], y: Ints, test: NDArray[np.float32]) -> Ints:
    """Logistic regression with balanced classes on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300, class_weight="balanced"))
    return np.asarray(model.fit(x, y).predict(test), np.int64)


def balanced_accuracy(truth: Ints, decided: Sequence[int] | Ints) -> float:
    """The mean over classes of the share that was found."""
    found = np.asarray(decided) == truth
    return float(np.mean([found[truth == number].mean() for number in np.unique(truth)]))
