"""How well fruit is named, beside other ways to do the same, on photos in folders that are their labels.

Run as `python -m benchmarks.identification TRAIN VAL --weights FILE`: folders `<group>/<label>/<photo>`, such as
`fruit/kiwi/1.jpg`. VAL has photos that were taken elsewhere; photos of one afternoon resemble each other too much to
try a classifier on. The groups fruit, vegetables and packages show how strange things are told from known ones.
"""

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from bootstrap.weights.weights import compile_weights
from features.calibration import HeldOut, calibrate, calibration_error
from features.classifier import Classifier, LeftOut, name_rows, squared_distances, within_labels
from features.featurizer import Featurizer, Recipe
from features.image import decode
from features.label_sums import RowSummer, RowSums
from store.settings import load_settings

MIN_ROWS = 10
FLIPPED = 0.05
HALVINGS = 20


@dataclass(frozen=True, eq=False)
class Photos:
    vectors: NDArray[np.float32]
    labels: NDArray[np.str_]
    groups: NDArray[np.str_]

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Photos":
        return Photos(self.vectors[chosen], self.labels[chosen], self.groups[chosen])

    def and_those(self, others: "Photos") -> "Photos":
        return Photos(
            np.concatenate([self.vectors, others.vectors]),
            np.concatenate([self.labels, others.labels]),
            np.concatenate([self.groups, others.groups]),
        )

    def sums(self) -> RowSums:
        summer = RowSummer(self.vectors.shape[1])
        summer.add(self.vectors, self.labels.tolist(), [None] * len(self.labels))
        return summer.result()


def main() -> None:
    train, val = read_photos("How well fruit is named.")
    print(
        f"{len(train.labels):,} photos to fit on, {len(val.labels):,} taken elsewhere, {len(set(train.labels))} labels"
    )
    _accuracy(train, val)
    _calibration(train, val)
    _strangers(train, val)
    _wrong_labels(train)


def _accuracy(train: Photos, val: Photos) -> None:
    began_s = time.perf_counter()
    classifier = within_labels(train.sums(), MIN_ROWS).classifier()
    fitted_s = time.perf_counter() - began_s
    names = name_rows(classifier, val.vectors)
    labels = np.array(classifier.labels)
    top1 = (labels[names.places[:, 0]] == val.labels).mean()
    top3 = (labels[names.places] == val.labels[:, None]).any(axis=1).mean()
    print(f"\naccuracy {top1:.3f}, top three {top3:.3f} (fitted in {fitted_s:.2f} s)")
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    rivals = {
        "scikit-learn's discriminant analysis": lda,
        "logistic regression": LogisticRegression(max_iter=1000, C=0.1),
        "nearest neighbour": KNeighborsClassifier(1, metric="cosine"),
    }
    for name, rival in rivals.items():
        began_s = time.perf_counter()
        rival.fit(train.vectors, train.labels)
        fitted_s = time.perf_counter() - began_s
        print(f"  {name}: {rival.score(val.vectors, val.labels):.3f} (fitted in {fitted_s:.2f} s)")


def _calibration(train: Photos, val: Photos) -> None:
    """One half of the later photos calibrates, the other one tells; the mean of some ways to halve them."""
    within, errors = within_labels(train.sums(), MIN_ROWS), defaultdict(list)
    for seed in range(HALVINGS):
        order = np.random.default_rng(seed).permutation(len(val.labels))
        first, second = (val.take(np.sort(part)) for part in np.array_split(order, 2))
        held_out = HeldOut(first.vectors, first.labels.tolist())
        for name, classifier in {
            "a plain softmax": within.classifier(temperature=1.0),
            "uncalibrated, temperature 20": within.classifier(),
            "calibrated on the other half": calibrate(within, held_out, fewest_rows=len(first.labels) // 2),
        }.items():
            names = name_rows(classifier, second.vectors)
            is_right = np.array(classifier.labels)[names.places[:, 0]] == second.labels
            errors[name].append(calibration_error(names.confidences[:, 0], is_right))
    for name, of_halvings in errors.items():
        print(f"calibration error, {name}: {np.mean(of_halvings):.3f}")


def _strangers(train: Photos, val: Photos) -> None:
    known = within_labels(train.take(train.groups == "fruit").sums(), MIN_ROWS).classifier()
    fruit = val.take(val.groups == "fruit")
    for group in ("packages", "vegetables"):
        strange = val.take(val.groups == group)
        vectors = np.concatenate([fruit.vectors, strange.vectors])
        is_strange = np.arange(len(vectors)) >= len(fruit.labels)
        names = name_rows(known, vectors)
        by_distance = roc_auc_score(is_strange, names.distances)
        by_confidence = roc_auc_score(is_strange, -names.confidences[:, 0])
        print(f"fitted on fruit, {group} told by distance: AUROC {by_distance:.3f} (by confidence {by_confidence:.3f})")


def _wrong_labels(train: Photos) -> None:
    random = np.random.default_rng(0)
    flipped = random.choice(len(train.labels), round(FLIPPED * len(train.labels)), replace=False)
    labels, kinds = train.labels.copy(), sorted(set(train.labels))
    for row in flipped:
        labels[row] = random.choice([kind for kind in kinds if kind != train.labels[row]])
    wrong = Photos(train.vectors, labels, train.groups)
    classifier = within_labels(wrong.sums(), MIN_ROWS).classifier()
    belief = believed(classifier, wrong)
    least = np.argsort(belief)[: 2 * len(flipped)]
    print(
        f"{np.isin(flipped, least).mean():.3f} of {len(flipped)} wrong labels are among the {len(least)} least believed"
    )


def believed(classifier: Classifier, photos: Photos) -> NDArray[np.float64]:
    """How near a row's own label is, against the nearest other one, as if the row had been left out."""
    place_of = {label: place for place, label in enumerate(classifier.labels)}
    places = np.array([place_of.get(label, -1) for label in photos.labels], np.int64)
    left_out = LeftOut(places, np.ones(len(places), np.int64))
    distances = squared_distances(classifier, photos.vectors, left_out).astype(np.float64)
    rows = np.arange(len(places))
    own = np.where(places >= 0, distances[rows, places], np.inf)
    distances[rows, places] = np.inf
    belief: NDArray[np.float64] = np.nan_to_num(distances.min(axis=1) - own, neginf=-1e30)
    return belief


def read_photos(description: str) -> tuple[Photos, Photos]:
    """The photos of the two folders that the command line names, by the network that it names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("train", type=Path)
    parser.add_argument("val", type=Path)
    parser.add_argument("--weights", default="auto")
    given = parser.parse_args()
    featurizer = Featurizer(compile_weights(given.weights, print).network)
    return _photos(given.train, featurizer), _photos(given.val, featurizer)


def _photos(folder: Path, featurizer: Featurizer) -> Photos:
    paths = sorted(path for path in folder.glob("*/*/*") if path.is_file())
    limits = load_settings(home="nowhere").limits
    vectors = [
        featurizer.features(decode(path.read_bytes(), limits, Recipe(featurizer.input_px)).pixels[None])
        for path in paths
    ]
    return Photos(
        np.concatenate(vectors),
        np.array([path.parent.name for path in paths]),
        np.array([path.parent.parent.name for path in paths]),
    )


if __name__ == "__main__":
    main()
