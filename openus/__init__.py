"""OpenUS: an ultrasound corpus anyone can rebuild."""

__version__ = "0.1.0"
