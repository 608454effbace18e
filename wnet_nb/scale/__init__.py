"""Volumes larger than memory, on one machine or many: an extra, imported only when it is used."""

from importlib import import_module
from importlib.util import find_spec

from wnet_nb.errors import UserError

PACKAGES = ("dask", "distributed", "zarr", "pyarrow")  # the extra `scale`
_PUBLIC = {"segment_large": "run", "sample_stacks": "sampling"}


def missing_packages() -> list[str]:
    """Return what of the extra is not there."""
    return [name for name in PACKAGES if find_spec(name) is None]


def check_installed() -> None:
    """Raise a UserError that says how to get the extra, unless it is there."""
    missing = missing_packages()
    if missing:
        raise UserError(
            f"OME-Zarr and volumes larger than memory need {', '.join(missing)}; run "
            'pip install ".[scale]" in the project\'s folder'
        )


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'wnet_nb.scale' has no attribute '{name}'")
    check_installed()
    return getattr(import_module(f"wnet_nb.scale.{_PUBLIC[name]}"), name)
