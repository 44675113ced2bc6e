"""Models from and for others: `usfmae import` reads weights of other software (`importing`), `usfmae export` writes
them for it (`exporting`), `usfmae publish` sends them (`publishing`), each with a model card (`card`). Takes and hands
on folders; the options of the three commands are declared in `commands`.
"""
