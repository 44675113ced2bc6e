"""What answers are worth: pure functions of truth and answers, with intervals that resample patients.

A module per kind of answer (`classification`, `multilabel`, `regression`, `segmentation`), the draws of patients
(`bootstrap`), and several runs or two models side by side (`compare`). No network and no file is known here. Hands on
scores as JSON-ready values, and `Answers`, from which they can be computed again.
"""
