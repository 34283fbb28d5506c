"""Split the data set by site: ``python split.py breast_cancer.csv`` writes the three files below this one's folder.

The input is scikit-learn's copy of it (``sklearn/datasets/data/breast_cancer.csv``).
"""

import csv
import random
import sys
from pathlib import Path

MEASURES = ["radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity"]
MEASURES += ["concave_points", "symmetry", "fractal_dimension"]
HEADER = [f"{kind}_{measure}" for kind in ("mean", "error", "worst") for measure in MEASURES] + ["diagnosis"]
SHARES = {"server": 0.2, "site-1": 0.48, "site-2": 0.32}  # the server's is the test set


def main(source: str) -> None:
    with Path(source).open(newline="") as file:
        rows = [[*row[:-1], "MB"[int(row[-1])]] for row in list(csv.reader(file))[1:]]
    shuffled = random.Random(42)
    shuffled.shuffle(rows)
    parts: dict[str, list[list[str]]] = {site: [] for site in SHARES}
    for diagnosis in "MB":  # each site gets the same mix
        group, start, share = [row for row in rows if row[-1] == diagnosis], 0, 0.0
        for site in SHARES:
            share += SHARES[site]
            stop = round(share * len(group))
            parts[site] += group[start:stop]
            start = stop
    for site, part in parts.items():
        shuffled.shuffle(part)
        with (Path(__file__).with_name(site) / "rows.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([HEADER, *part])


if __name__ == "__main__":
    main(sys.argv[1])
