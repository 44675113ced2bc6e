"""Heads on frozen features: nearest neighbours, a linear map, a learned query; and retrieval.

Each takes features and labels of a training and a validation part and gives class probabilities of a test
part; what it has to choose (neighbours, strength of regularisation, epoch) it chooses by the validation loss.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float64]
Features = NDArray[np.float32]
Ints = NDArray[np.int64]

NEIGHBOURS = (1, 5, 10, 20, 50, 100)
STRENGTHS = tuple(10.0**power for power in range(-5, 3))
TEMPERATURE = 0.07
"""Of the weights of neighbours, exp(cosine / temperature), as Wu et al. (2018) and DINO use it."""


def log_loss(targets: Ints, probabilities: Floats) -> float:
    """Mean negative log-likelihood; probabilities are kept away from 0."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(targets)), targets], 1e-7)).mean())


def knn(
    train: Features, train_y: Ints, val: Features, val_y: Ints, test: Features, classes: int
) -> tuple[Floats, dict[str, Any]]:
    """Weighted vote of the nearest training images by cosine; k by the validation part.

    Classes are weighted by their inverse frequency, as the other heads weigh them. Returns probabilities
    float64 [N, C] of `test` and the choice made.
    """
    weights = len(train_y) / np.maximum(np.bincount(train_y, minlength=classes), 1)
    ks = [k for k in NEIGHBOURS if k <= len(train_y)]
    scored = {k: _vote(train, train_y, val, k, weights, classes) for k in ks}
    best = min(ks, key=lambda k: log_loss(val_y, scored[k]))
    return _vote(train, train_y, test, best, weights, classes), {"k": best}


def _unit(features: Features) -> Tensor:
    return F.normalize(torch.from_numpy(features).double(), dim=1)


def _vote(train: Features, train_y: Ints, queries: Features, k: int, weights: Floats, classes: int) -> Floats:
    similar = _unit(queries) @ _unit(train).T
    near, place = similar.topk(k, dim=1)
    strength = ((near - near[:, :1]) / TEMPERATURE).exp()
    labels = torch.from_numpy(train_y)[place]
    votes = torch.zeros(len(queries), classes, dtype=torch.float64)
    votes.scatter_add_(1, labels, strength * torch.from_numpy(weights)[labels])
    votes += 1e-3 * votes.sum(1, keepdim=True)  # a class without a vote is unlikely, not impossible
    return np.asarray((votes / votes.sum(1, keepdim=True)).numpy(), np.float64)


def linear(
    train: Features, train_y: Ints, val: Features, val_y: Ints, test: Features, classes: int
) -> tuple[Floats, dict[str, Any]]:
    """Logistic regression on standardised features, classes balanced; its strength by the validation part."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    x, v = scaler.transform(train), scaler.transform(val)
    best: tuple[float, float, Any] | None = None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weak regularisation need not converge; the choice shows it
            model.fit(x, train_y)
        loss = log_loss(val_y, _spread(model.predict_proba(v), model.classes_, classes))
        if best is None or loss < best[0]:
            best = (loss, strength, model)
    assert best is not None
    probabilities = _spread(best[2].predict_proba(scaler.transform(test)), best[2].classes_, classes)
    return probabilities, {"C": best[1]}


def _spread(probabilities: Floats, seen: Ints, classes: int) -> Floats:
    """Columns for all classes; those that the training part lacked stay 0."""
    whole = np.zeros((len(probabilities), classes))
    whole[:, seen] = probabilities
    return whole


class AttentiveHead(nn.Module):
    """A learned query attends to the patch tokens [B, T, D]; a linear map gives the classes [B, C]."""

    def __init__(self, width: int, classes: int, heads: int = 8) -> None:
        super().__init__()
        while width % heads:
            heads //= 2
        self.query = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, tokens: Tensor) -> Tensor:
        normal = self.norm(tokens)
        seen, _ = self.attention(self.query.expand(len(tokens), -1, -1), normal, normal, need_weights=False)
        result: Tensor = self.out(seen[:, 0])
        return result


def attentive(
    tokens: Tensor, train: Ints, train_y: Ints, val: Ints, val_y: Ints, test: Ints, classes: int, *,
    seed: int = 0, epochs: int = 30, batch: int = 64, lr: float = 1e-3, weight_decay: float = 0.05,
) -> tuple[Floats, dict[str, Any]]:  # fmt: skip
    """Train an `AttentiveHead` on frozen tokens [N, T, D]; train, val, test are row numbers. Epoch by validation."""
    device = tokens.device
    torch.manual_seed(seed)
    head = AttentiveHead(tokens.shape[-1], classes).to(device)
    steps = max(1, len(train) // batch)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps, pct_start=0.1)
    weights = len(train_y) / np.maximum(np.bincount(train_y, minlength=classes), 1) / classes
    weight = torch.tensor(weights, dtype=torch.float32, device=device)
    labels = torch.from_numpy(train_y).to(device)
    rows = torch.from_numpy(train).to(device)
    best, kept, chosen = float("inf"), {}, 0
    for epoch in range(epochs):
        head.train()
        order = torch.randperm(len(train)).to(device)
        for step in range(steps):
            take = order[step * batch : (step + 1) * batch]
            loss = F.cross_entropy(head(tokens[rows[take]].float()), labels[take], weight)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        held = log_loss(val_y, _head_probabilities(head, tokens, val, batch))
        if held < best:
            best, chosen = held, epoch + 1
            kept = {key: value.detach().clone() for key, value in head.state_dict().items()}
    head.load_state_dict(kept)
    return _head_probabilities(head, tokens, test, batch), {"epoch": chosen}


@torch.inference_mode()
def _head_probabilities(head: AttentiveHead, tokens: Tensor, rows: Ints, batch: int) -> Floats:
    head.eval()
    parts = [
        F.softmax(
            head(tokens[torch.from_numpy(rows[start : start + 4 * batch]).to(tokens.device)].float()), 1
        )
        for start in range(0, len(rows), 4 * batch)
    ]
    return np.asarray(torch.cat(parts).double().cpu().numpy(), np.float64)


def retrieval(
    gallery: Features, gallery_y: Ints, queries: Features, query_y: Ints, ranks: tuple[int, ...] = (1, 5, 10)
) -> dict[str, Floats]:
    """How well the nearest images share the query's class: name to float64 [queries].

    ``precision_at_k``: share of the k nearest with the query's class; ``average_precision``: of the whole
    ranking. NaN for a query whose class the gallery lacks. Queries and gallery must share no patient.
    """
    order = (_unit(queries) @ _unit(gallery).T).argsort(dim=1, descending=True).numpy()
    same = (gallery_y[order] == query_y[:, None]).astype(np.float64)
    found = np.cumsum(same, 1)
    places = np.arange(1, same.shape[1] + 1)
    total = found[:, -1]
    precision = (found / places * same).sum(1)
    scores = {f"precision_at_{k}": found[:, k - 1] / k for k in ranks if k <= same.shape[1]}
    scores["average_precision"] = np.divide(
        precision, total, out=np.full(len(total), np.nan), where=total > 0
    )
    return {name: np.where(total > 0, value, np.nan) for name, value in scores.items()}
