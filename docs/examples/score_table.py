"""Score the rows of a Parquet file on the workers of a Ray cluster."""

from typing import Any

import numpy as np
import ray

from repdyn.ood import load_detector


class Score:
    """Adds a column of scores to a batch; each worker loads the detector once."""

    def __init__(self, folder: str) -> None:
        self.detector = load_detector(folder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        columns = {point: np.stack(batch[point]) for point in self.detector.points_}
        return {"id": batch["id"], "score": self.detector.score_samples(columns)}


def score_table(table: str, detector: str, out: str, workers: int = 2) -> None:
    """Write ``id`` and ``score`` of each row of ``table`` to Parquet files in the folder ``out``."""
    rows = ray.data.read_parquet(table)
    scored = rows.map_batches(Score, fn_constructor_args=[detector], concurrency=workers, batch_size=4096)
    scored.write_parquet(out)
