"""What a pretrained network is good for: one file per task here, and what the tasks share in rooms beside them.

    recipe   every value of a fine-tuning run
    data     labelled samples, as pixels, targets and splits
    network  the network of a task: built, rebuilt, loaded, looked into
    training, scores   what learns; what it is worth (neither knows of the other)
    report   pictures and tables of results
    exchange models from and for other software

Each room imports only from those above it; the tasks (classify, multilabel, regress, segment, finetune, probe, embed,
predict, benchmark, show, reconstruct) import from all. `task.py` says what a task of fine-tuning is, `runs.py` takes
one through a fold, `commands.py` declares the command line.
"""
