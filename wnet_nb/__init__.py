"""Train WNet3D, an unsupervised 3D segmentation network, on your own microscopy volumes.

Importing the package does no work: each module is imported when one of its names is first used.

Examples
--------
>>> import wnet_nb
>>> wnet_nb.train("nuclei.tif", "runs/first", wnet_nb.preset("quick"))  # doctest: +SKIP
>>> results = wnet_nb.segment("runs/first", "nuclei.tif")  # doctest: +SKIP
"""

import importlib

__version__ = "0.1.0"

_PUBLIC = {  # name: module, and the name there
    "Settings": ("wnet_nb.config", "Settings"),
    "preset": ("wnet_nb.config", "preset"),
    "read_volume": ("wnet_nb.files.volumes", "read_volume"),
    "train": ("wnet_nb.jobs.train", "train"),
    "segment": ("wnet_nb.jobs.segment", "segment"),
    "segment_large": ("wnet_nb.scale", "segment_large"),
    "evaluate": ("wnet_nb.jobs.evaluate", "evaluate"),
}


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'wnet_nb' has no attribute '{name}'")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
