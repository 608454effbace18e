"""The starter weights in the package: the file of its card, and a network that finds cells."""

import hashlib
import re

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb.cells.outlines import segment_instances
from wnet_nb.cells.scores import match_instances
from wnet_nb.checkpoint import STARTER, STARTER_FILE
from wnet_nb.data import prepare
from wnet_nb.inference import predict_probabilities
from wnet_nb.jobs.models import load_model


def test_the_file_is_the_one_that_its_card_describes():
    card = STARTER_FILE.with_suffix(".md").read_text(encoding="utf-8")
    digest = hashlib.sha256(STARTER_FILE.read_bytes()).hexdigest()
    assert re.findall("[0-9a-f]{64}", card) == [digest]
    assert STARTER_FILE.stat().st_size < 8_000_000


def test_a_simulated_volume_that_it_has_not_seen_is_segmented_nearly_without_error():
    image, truth = make_nuclei(7, shape=(64, 80, 80), n_cells=50)
    starter = load_model(STARTER)
    size = (1.0, 1.0, 1.0)
    prepared = prepare(image, starter.settings, cell_radius_um=5.0, voxel_size_um=size)
    cells = segment_instances(
        predict_probabilities(starter.model, prepared),
        image,
        voxel_size_um=size,
        cell_radius_um=5.0,
        foreground_classes=starter.settings.foreground_classes,
        core_class=starter.settings.core_class,
    )
    scores = match_instances(cells.labels, truth)
    half = next(row for row in scores.as_rows() if row["threshold"] == 0.5)
    assert half["f1"] > 0.9 and scores.mean_f1 > 0.75
