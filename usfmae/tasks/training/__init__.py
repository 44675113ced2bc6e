"""What learns: the loop of fine-tuning, and heads on frozen features.

The loop (`loop`) with its optimiser (`optim`) and random changes of images (`augment`) takes samples and an
`Objective` and hands on a `Fit`; the heads (`heads`) take features and hand on probabilities.
"""
