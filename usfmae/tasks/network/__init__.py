"""The network of a task, from where it begins to what it says.

What begins it (`start`, and what its weights have seen before: `lineage`), what it is (`base`, with the dense head of
`segmenter` and the closer look of `focus`), how it is built or rebuilt (`build`, `timm`), where it runs (`device`),
what it makes of images (`features`, `attention`), and what `usfmae finetune` left, loaded again (`finetuned`,
`calibration`). Hands on `Network`, `Model` and its `Prediction`.
"""
