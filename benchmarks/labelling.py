"""Which photos a person should label next, and which labels tell how often answers are right, on photos in folders.

Run as `python -m benchmarks.labelling TRAIN VAL --weights FILE`: folders `<group>/<label>/<photo>` as for
`benchmarks.identification`. VAL has photos that were taken elsewhere. Photos get the labels of their folders when a rule
asks for them.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.identification import Photos, believed, read_photos
from bootstrap.weights.weights import compile_weights
from features.classifier import TEMPERATURE, Classifier, nearest_labels, softmax, squared_distances, within_labels
from features.featurizer import FEATURES, Featurizer
from features.label_sums import RowSummer

FIRST, ALL, ROUNDS, SEEDS = 0.05, 0.2, 4, 10
# So few labelled photos leave few kinds with the ten that a home asks for.
MIN_ROWS = 2
COMPONENTS = 64
MIN_ROWS_OF_A_HOME = 10
HOMES, FLIPPED, ASKED = 20, 0.05, 150

Rows = NDArray[np.int64]

_COLUMNS = ("vectors", "labels", "groups")
_NO_POINTS = np.zeros((0, 0), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description="What to label next.")
    parser.add_argument("train", type=Path)
    parser.add_argument("val", type=Path)
    parser.add_argument("--weights", default="auto")
    given = parser.parse_args()
    featurizer = Featurizer(compile_weights(given.weights, print).network)
    measure(*(read_photos(folder, featurizer) for folder in (given.train, given.val)))


def measure(train: Photos, val: Photos) -> None:
    _print_rules(train, val)
    _print_accuracies(train, val)


@dataclass(frozen=True, eq=False)
class _Pool:
    """The photos without a label when somebody asks for some, as the served version sees them.

    `rows` (n,) are their places in all photos, `known` those of the labelled ones; `points` (n, k) and `known_points`
    their projections.
    """

    classifier: Classifier
    rows: Rows
    vectors: NDArray[np.float32]
    points: NDArray[np.float32]
    known_points: NDArray[np.float32]
    random: np.random.Generator

    @cached_property
    def distances(self) -> NDArray[np.float32]:
        return np.sort(squared_distances(self.classifier, self.vectors), axis=1)

    @cached_property
    def shares(self) -> NDArray[np.float32]:
        return softmax(self.distances, TEMPERATURE)

    @cached_property
    def predicted(self) -> Rows:
        return nearest_labels(self.classifier, self.vectors)


def _by_chance(pool: _Pool, number: int) -> Rows:
    return pool.random.permutation(len(pool.rows))[:number]


def _least_sure(pool: _Pool, number: int) -> Rows:
    return np.argsort(pool.shares[:, 0], kind="stable")[:number]


def _smallest_margin(pool: _Pool, number: int) -> Rows:
    return np.argsort(pool.shares[:, 0] - pool.shares[:, 1], kind="stable")[:number]


def _largest_entropy(pool: _Pool, number: int) -> Rows:
    entropy = -(pool.shares * np.log(np.maximum(pool.shares, 1e-12))).sum(axis=1)
    return np.argsort(-entropy, kind="stable")[:number]


def _strangest(pool: _Pool, number: int) -> Rows:
    return np.argsort(-pool.distances[:, 0], kind="stable")[:number]


def _in_turns(of_rule: Callable[[_Pool, int], Rows]) -> Callable[[_Pool, int], Rows]:
    """The first photo of each predicted label by a rule, then the second of each, and so on."""

    def chosen(pool: _Pool, number: int) -> Rows:
        order, taken, turns = of_rule(pool, len(pool.rows)), defaultdict(int), np.zeros(len(pool.rows), np.int64)
        for place, row in enumerate(order):
            turns[place] = taken[pool.predicted[row]]
            taken[pool.predicted[row]] += 1
        return order[np.argsort(turns, kind="stable")][:number]

    return chosen


def _farthest_first(of_least_sure: int | None) -> Callable[[_Pool, int], Rows]:
    """The photo that is farthest from all labelled and chosen ones by its projection, again and again.

    Source: Gonzalez, "Clustering to Minimize the Maximum Intercluster Distance" (1985).
    """

    def chosen(pool: _Pool, number: int) -> Rows:
        candidates = _least_sure(pool, of_least_sure * number if of_least_sure else len(pool.rows))
        points, found = pool.points[candidates], []
        squares = (points**2).sum(axis=1)[:, None] - 2 * points @ pool.known_points.T
        nearest = (squares + (pool.known_points**2).sum(axis=1)).min(axis=1)
        for _ in range(number):
            found.append(farthest := int(nearest.argmax()))
            nearest = np.minimum(nearest, ((points - points[farthest]) ** 2).sum(axis=1))
            nearest[farthest] = -1
        return np.asarray(candidates[found])

    return chosen


def _none_alike(pool: _Pool, number: int) -> Rows:
    """The least sure ones that have no less sure one nearby: half of all photos have a neighbour as near."""
    order = _least_sure(pool, len(pool.rows))
    points = pool.points[order]
    squares = (points**2).sum(axis=1)
    apart = np.maximum(squares[:, None] - 2 * points @ points.T + squares, 0)
    near = np.median(np.sort(apart, axis=1)[:, 1])
    is_alike = np.tril(apart < near, -1).any(axis=1)
    return np.concatenate([order[~is_alike], order[is_alike]])[:number]


TO_LABEL = "least sure, in turns over what is predicted (`to_label`)"
RULES: dict[str, Callable[[_Pool, int], Rows]] = {
    "at random": _by_chance,
    TO_LABEL: _in_turns(_least_sure),
    "smallest margin, in turns": _in_turns(_smallest_margin),
    "strangest, in turns": _in_turns(_strangest),
    "farthest first among the least sure": _farthest_first(4),
    "farthest first": _farthest_first(None),
    "least sure, none alike": _none_alike,
    "least sure": _least_sure,
    "smallest margin": _smallest_margin,
    "largest entropy": _largest_entropy,
    "strangest": _strangest,
}


def _print_rules(train: Photos, val: Photos) -> None:
    centred = train.vectors - train.vectors.mean(axis=0)
    points = centred @ np.linalg.svd(centred, full_matrices=False)[2][:COMPONENTS].T
    print(
        f"{ALL:.0%} of {len(train.labels):,} photos labelled, {FIRST:.0%} at random and the others in {ROUNDS} rounds, "
        f"each with a refit; tried on {len(val.labels):,} taken elsewhere; {SEEDS} seeds\n"
        "| rule | right (standard deviation) | better than at random | mean of the kinds | kinds found of "
        f"{len(set(train.labels))} |\n|---|---|---|---|---|"
    )
    by_chance = np.zeros(0)
    for name, rule in RULES.items():
        tries = np.array([_labelled_by(rule, train, val, points, seed) for seed in range(SEEDS)])
        right, kinds, found = tries.T
        by_chance = by_chance if len(by_chance) else right
        better = right - by_chance
        print(
            f"| {name} | {right.mean():.3f} ({right.std(ddof=1):.3f}) | {better.mean():+.3f}, {(better > 0).sum()} of "
            f"{SEEDS} times | {kinds.mean():.3f} | {found.mean():.1f} |"
        )


def _labelled_by(
    rule: Callable[[_Pool, int], Rows], train: Photos, val: Photos, points: NDArray[np.float32], seed: int
) -> tuple[float, float, int]:
    """How much of the later photos is right, as the mean of their kinds, and how many kinds got a label."""
    random, number = np.random.default_rng(seed), len(train.labels)
    labelled = random.permutation(number)[: round(FIRST * number)]
    for goal in np.linspace(len(labelled), ALL * number, ROUNDS + 1).round().astype(int)[1:]:
        rest = np.setdiff1d(np.arange(number), labelled)
        classifier = _fit(train.take(labelled), MIN_ROWS)
        pool = _Pool(classifier, rest, train.vectors[rest], points[rest], points[labelled], random)
        labelled = np.concatenate([labelled, rest[rule(pool, goal - len(labelled))]])
    is_right = _said(_fit(train.take(labelled), MIN_ROWS), val) == val.labels
    kinds = [is_right[val.labels == kind].mean() for kind in np.unique(val.labels)]
    return float(is_right.mean()), float(np.mean(kinds)), len(np.unique(train.labels[labelled]))


def _fit(photos: Photos, min_rows: int) -> Classifier:
    summer = RowSummer(FEATURES)
    summer.add(photos.vectors, photos.labels.tolist(), [None] * len(photos.labels))
    return within_labels(summer.result(), min_rows).classifier()


def _said(classifier: Classifier, photos: Photos) -> NDArray[np.str_]:
    said: NDArray[np.str_] = np.array(classifier.labels)[nearest_labels(classifier, photos.vectors)]
    return said


def _print_accuracies(train: Photos, val: Photos) -> None:
    homes = [_home(train, val, np.random.default_rng(seed)) for seed in range(HOMES)]
    truth = np.array([home.is_right.mean() for home in homes])
    print(
        f"\n{truth.mean():.3f} of all answers are right, {np.mean([len(home.is_right) for home in homes]):.0f} a home, "
        f"the mean of {HOMES} homes\n| labels that count | told | from the truth: on average | in one home |\n|---|---|---|---|"
    )
    for rule in homes[0].told:
        told = np.array([home.told[rule] for home in homes])
        print(f"| {rule} | {told.mean():.3f} | {(told - truth).mean():+.3f} | {np.abs(told - truth).mean():.3f} |")


@dataclass(frozen=True, eq=False)
class _Home:
    """Which answers of a made home are right (n,), and what share of them each rule tells."""

    is_right: NDArray[np.bool_]
    told: dict[str, float]


def _home(train: Photos, val: Photos, random: np.random.Generator) -> _Home:
    """Half of the photos are in the first fit; the others come later and get an answer, half of them without a folder.

    A tenth of all photos with a folder, the likeliest suspects, are looked at and put right. Of those without a folder
    some get a label because `to_label` asked for them, others because they were drawn.
    """
    order = random.permutation(len(train.labels))
    half = len(order) // 2
    later = Photos(*(np.concatenate([getattr(train, name)[order[half:]], getattr(val, name)]) for name in _COLUMNS))
    first = train.take(order[:half])
    first = Photos(first.vectors, _with_wrong_ones(first.labels, random), first.groups)
    answers = _said(version := _fit(first, MIN_ROWS_OF_A_HOME), later)
    has_folder = random.random(len(answers)) < 0.5
    folders = np.where(has_folder, _with_wrong_ones(later.labels, random), "")
    [in_folders], [bare] = np.nonzero(has_folder), np.nonzero(~has_folder)

    fitted = Photos(
        np.concatenate([later.vectors[in_folders], first.vectors]),
        np.concatenate([folders[in_folders], first.labels]),
        np.concatenate([later.groups[in_folders], first.groups]),
    )
    suspects = np.argsort(believed(_fit(fitted, MIN_ROWS_OF_A_HOME), fitted), kind="stable")
    suspects = suspects[: round(2 * FLIPPED * len(suspects))]
    looked_at = np.isin(np.arange(len(answers)), in_folders[suspects[suspects < len(in_folders)]])
    corrected = looked_at & (folders != later.labels)
    labels = np.where(corrected | ~has_folder, later.labels, folders)

    pool = _Pool(version, bare, later.vectors[bare], _NO_POINTS, _NO_POINTS, random)
    chosen = bare[RULES[TO_LABEL](pool, ASKED)]
    drawn = random.permutation(bare)[:ASKED]
    drawn_later = random.permutation(np.setdiff1d(bare, chosen))[:ASKED]
    is_right = labels == answers

    def told(*rows: Rows) -> float:
        return float(is_right[np.unique(np.concatenate(rows))].mean())

    untouched, unseen = np.nonzero(has_folder & ~corrected)[0], np.nonzero(has_folder & ~looked_at)[0]
    return _Home(
        later.labels == answers,
        {
            "folders as they were, and drawn": float(
                np.concatenate([(folders == answers)[in_folders], is_right[drawn]]).mean()
            ),
            "(a) folders, put right where they were wrong, and drawn": told(in_folders, drawn),
            "(b) the same without what was put right": told(untouched, drawn),
            "(b) the same without what was looked at": told(unseen, drawn),
            "(c) all labels": told(in_folders, drawn, chosen),
            "drawn alone": told(drawn),
            "drawn alone, from what nobody had chosen": told(drawn_later),
            "chosen alone": told(chosen),
        },
    )


def _with_wrong_ones(labels: NDArray[np.str_], random: np.random.Generator) -> NDArray[np.str_]:
    wrong, kinds = labels.copy(), np.unique(labels)
    for row in random.choice(len(labels), round(FLIPPED * len(labels)), replace=False):
        wrong[row] = random.choice(kinds[kinds != labels[row]])
    return wrong


if __name__ == "__main__":
    main()
