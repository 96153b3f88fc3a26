"""scoutview: self-supervised pre-training, transfer and honest evaluation for medical images."""

__version__ = "0.1.0"
