"""What scores are called, and how their values are written."""

from __future__ import annotations

NAMES = {
    "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1_weighted": "F1 weighted",
    "f1_macro": "F1 macro", "precision_weighted": "precision weighted", "recall_weighted": "recall weighted",
    "precision_macro": "precision macro", "recall_macro": "recall macro", "auroc": "AUROC",
    "sensitivity_at_90_specificity": "sensitivity at 90 % specificity",
    "sensitivity_at_95_specificity": "sensitivity at 95 % specificity", "ece": "calibration error (ECE)",
    "dice": "Dice", "iou": "IoU", "map": "mAP", "map_50": "mAP@50", "mae": "mean absolute error",
    "rmse": "root mean squared error", "r2": "R²", "pearson": "Pearson r", "auroc_macro": "AUROC macro",
    "average_precision_macro": "average precision macro", "exact_match": "exact match",
    "hamming_accuracy": "accuracy over labels",
}  # fmt: skip


# Customary between 0 and 1, or in the label's own unit; the others in per cent.
PLAIN = ("auroc", "ece", "auroc_macro", "mae", "rmse", "r2", "pearson")


def figure(name: str, value: float | None) -> str:
    """A score as people write it: in per cent, or plain where that is customary."""
    if value is None:
        return "–"
    return f"{value:.3f}" if name in PLAIN else f"{100 * value:.1f} %"
