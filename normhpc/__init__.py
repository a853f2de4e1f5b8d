"""normhpc: which normalization layer, for which network, on which images, and at what cost."""

__version__ = "0.1.0"
