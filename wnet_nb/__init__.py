"""Train WNet3D, an unsupervised 3D segmentation network, on your own microscopy volumes.

Importing the package does no work: each module is imported where it is used.
"""

__version__ = "0.1.0"
