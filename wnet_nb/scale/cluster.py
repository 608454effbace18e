"""The Dask cluster that the chunks are worked on: one on this machine, or one that is there."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import psutil
from dask.distributed import Client, LocalCluster

from wnet_nb.errors import UserError
from wnet_nb.scale.layout import Layout

BYTES_PER_VOXEL = 60  # of a chunk with its halo, at the most; tests/benchmarks/scale.md
PROCESS_BYTES = 600 * 2**20  # of a worker with all that it imports
CHUNKS = (256, 192, 128, 96, 64)  # voxels: the first for which a worker's memory suffices
MEMORY_SHARE = 0.8  # of what is free
CONNECT_SECONDS = 30


@contextlib.contextmanager
def connect(scheduler: str | None, workers: int | None) -> Iterator[Client]:
    """Give a client of the cluster at an address, or of one of `workers` processes made here.

    UserError if nobody answers at the address.
    """
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise UserError(
                f"no Dask scheduler answers at '{scheduler}' ({error}); start one with 'dask "
                "scheduler', and give the address that it prints"
            ) from error
        with client:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
            yield client
        return
    free = MEMORY_SHARE * psutil.virtual_memory().available
    count = workers or fitting_workers()
    with (
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            memory_limit=int(free / count),
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,  # a closing worker complains that it was closed
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def fitting_workers() -> int:
    """Return how many workers the processors and the free memory of this machine suffice for."""
    free = MEMORY_SHARE * psutil.virtual_memory().available
    smallest = BYTES_PER_VOXEL * CHUNKS[-1] ** 3 * 2 + PROCESS_BYTES
    return max(1, min(os.cpu_count() or 1, int(free / smallest)))


def memory_of_workers(client: Client) -> float:
    """Return the memory limit in bytes of the smallest worker; infinite where none is set."""
    limits = [one["memory_limit"] or float("inf") for one in _workers(client)]
    return min(limits, default=float("inf"))


def count_of_workers(client: Client) -> int:
    """Return how many tasks run at a time."""
    return max(1, sum(one["nthreads"] for one in _workers(client)))


def _workers(client: Client) -> list[dict]:
    return list(client.scheduler_info(n_workers=-1)["workers"].values())


def chunk_bytes(layout: Layout) -> int:
    """Return the memory in bytes that a chunk of a layout takes, at the most."""
    box = layout.in_voxels(layout.cleaning_box(len(layout.chunks) // 2))
    voxels = 1
    for s in box:
        voxels *= s.stop - s.start
    return voxels * BYTES_PER_VOXEL + PROCESS_BYTES
