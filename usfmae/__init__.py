"""USF-MAE: a masked autoencoder pretrained on OpenUS, and what one does with it."""

from openus import __version__

__all__ = ["__version__"]
