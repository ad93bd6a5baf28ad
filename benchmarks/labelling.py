"""Which photos a person should label next, and which labels tell how often answers are right, on photos in folders.

Run as `python -m benchmarks.labelling TRAIN VAL --weights FILE`: folders `<group>/<label>/<photo>`, as for
`benchmarks.identification`. VAL has photos that were taken elsewhere. A photo gets its folder's label when it is asked
for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from benchmarks.identification import Photos, believed, read_photos
from features.classifier import TEMPERATURE, Classifier, nearest_labels, softmax, squared_distances, within_labels

SEEDS, HOMES = 6, 20
COMPONENTS = 64
# So many are compared with each other, by so many components.
CANDIDATES, COMPARED = 500, 16
MIN_ROWS = 10
FLIPPED, ASKED = 0.05, 150

Rows = NDArray[np.int64]

_NO_POINTS = np.zeros((0, 0), np.float32)


def main() -> None:
    train, val = read_photos("What to label next.")
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


def _unsure_and_strange(pool: _Pool, number: int) -> Rows:
    strange = np.argsort(np.argsort(pool.distances[:, 0], kind="stable"))
    return np.argsort((pool.shares[:, 0] - 1) * strange, kind="stable")[:number]


def _unlike_each_other(pool: _Pool, number: int) -> Rows:
    """Of the unsure and strange ones, those that are farthest from the nearest of those before them."""
    order = _unsure_and_strange(pool, CANDIDATES)
    points = pool.points[order, :COMPARED]
    apart = ((points[:, None] - points) ** 2).sum(axis=2)
    apart[np.triu_indices(len(order))] = np.inf
    return np.asarray(order[np.argsort(-apart.min(axis=1), kind="stable")][:number])


def _in_turns(pool: _Pool, number: int) -> Rows:
    """The least sure photo of each predicted label, then the second of each, and so on."""
    order, taken = _least_sure(pool, len(pool.rows)), np.zeros(len(pool.classifier.labels), np.int64)
    turns = np.zeros(len(order), np.int64)
    for place, label in enumerate(pool.predicted[order]):
        turns[place] = taken[label]
        taken[label] += 1
    return order[np.argsort(turns, kind="stable")][:number]


def _farthest_first(pool: _Pool, number: int) -> Rows:
    """Of four times as many of the least sure: the one farthest from all labelled and chosen ones, again and again.

    Source: Gonzalez, "Clustering to Minimize the Maximum Intercluster Distance" (1985).
    """
    candidates, found = _least_sure(pool, 4 * number), list[int]()
    points = pool.points[candidates]
    squares = (points**2).sum(axis=1)[:, None] - 2 * points @ pool.known_points.T
    nearest = (squares + (pool.known_points**2).sum(axis=1)).min(axis=1)
    for _ in range(number):
        found.append(farthest := int(nearest.argmax()))
        nearest = np.minimum(nearest, ((points - points[farthest]) ** 2).sum(axis=1))
        nearest[farthest] = -1
    return np.asarray(candidates[found])


RULES: dict[str, Callable[[_Pool, int], Rows]] = {
    "at random": _by_chance,
    "unsure and strange (`to_label`)": _unsure_and_strange,
    "unsure and strange, and unlike each other": _unlike_each_other,
    "least sure": _least_sure,
    "smallest margin between the first two": _smallest_margin,
    "largest entropy": _largest_entropy,
    "strangest": _strangest,
    "least sure, in turns over what is predicted": _in_turns,
    "farthest first among the least sure": _farthest_first,
}


@dataclass(frozen=True)
class _Way:
    """How a user goes on: what part is labelled at random first, and in how many rounds another part follows."""

    first: float
    last: float
    rounds: int
    min_rows: int

    def __str__(self) -> str:
        rounds = f"{self.rounds} rounds" if self.rounds > 1 else "one round"
        return f"{self.first:.0%}, then to {self.last:.0%} in {rounds}; a label has {self.min_rows} photos at least"


# With a fifth of 33 photos a kind, few kinds have the ten that a home asks for.
WAYS = (_Way(0.05, 0.2, 4, 2), _Way(0.05, 0.2, 1, 2), _Way(0.2, 0.4, 4, MIN_ROWS))


def _print_rules(train: Photos, val: Photos) -> None:
    points = train.vectors @ _components(train)
    for way in WAYS:
        print(f"\n{way}\n| rule | right | beside at random | mean of the kinds | kinds named |\n|---|---|---|---|---|")
        by_chance: NDArray[np.float64] | None = None
        for name, rule in RULES.items():
            right, kinds, named = np.array([_labelled_by(rule, way, train, val, points, n) for n in range(SEEDS)]).T
            by_chance = right if by_chance is None else by_chance
            better = right - by_chance
            print(
                f"| {name} | {right.mean():.3f} | {better.mean():+.3f} ± {better.std(ddof=1) / SEEDS**0.5:.3f}, better "
                f"{(better > 0).sum()} of {SEEDS} times | {kinds.mean():.3f} | {named.mean():.0f} |",
                flush=True,
            )


def _labelled_by(
    rule: Callable[[_Pool, int], Rows],
    way: _Way,
    train: Photos,
    val: Photos,
    points: NDArray[np.float32],
    seed: int,
) -> tuple[float, float, int]:
    """How much of the later photos is right, as the mean of their kinds, and how many kinds can be named."""
    random, number = np.random.default_rng(seed), len(train.labels)
    labelled = random.permutation(number)[: round(way.first * number)]
    for goal in np.linspace(len(labelled), way.last * number, way.rounds + 1).round().astype(int)[1:]:
        rest = np.setdiff1d(np.arange(number), labelled)
        classifier = _fit(train.take(labelled), way.min_rows)
        pool = _Pool(classifier, rest, train.vectors[rest], points[rest], points[labelled], random)
        labelled = np.concatenate([labelled, rest[rule(pool, goal - len(labelled))]])
    classifier = _fit(train.take(labelled), way.min_rows)
    is_right = _said(classifier, val) == val.labels
    kinds = [is_right[val.labels == kind].mean() for kind in np.unique(val.labels)]
    return float(is_right.mean()), float(np.mean(kinds)), len(classifier.labels)


def _fit(photos: Photos, min_rows: int) -> Classifier:
    return within_labels(photos.sums(), min_rows).classifier()


def _said(classifier: Classifier, photos: Photos) -> NDArray[np.str_]:
    said: NDArray[np.str_] = np.array(classifier.labels)[nearest_labels(classifier, photos.vectors)]
    return said


def _print_accuracies(train: Photos, val: Photos) -> None:
    homes = [_home(train, val, np.random.default_rng(seed)) for seed in range(HOMES)]
    truth = np.array([home.is_right.mean() for home in homes])
    answers = np.mean([len(home.is_right) for home in homes])
    print(f"\n{truth.mean():.3f} of the {answers:,.0f} answers of a home are right, the mean of {HOMES} homes")
    print("| labels that count | told | off, on average | off, in one home |\n|---|---|---|---|")
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
    later = train.take(order[half:]).and_those(val)
    first = train.take(order[:half])
    first = Photos(first.vectors, _with_wrong_ones(first.labels, random), first.groups)
    answers = _said(version := _fit(first, MIN_ROWS), later)
    has_folder = random.random(len(answers)) < 0.5
    folders = np.where(has_folder, _with_wrong_ones(later.labels, random), "")
    [in_folders], [bare] = np.nonzero(has_folder), np.nonzero(~has_folder)

    fitted = Photos(later.vectors, folders, later.groups).take(in_folders).and_those(first)
    suspects = np.argsort(believed(_fit(fitted, MIN_ROWS), fitted), kind="stable")
    suspects = suspects[: round(2 * FLIPPED * len(suspects))]
    looked_at = np.isin(np.arange(len(answers)), in_folders[suspects[suspects < len(in_folders)]])
    corrected = looked_at & (folders != later.labels)
    labels = np.where(corrected | ~has_folder, later.labels, folders)

    pool = _Pool(version, bare, later.vectors[bare], _NO_POINTS, _NO_POINTS, random)
    chosen = bare[_unsure_and_strange(pool, ASKED)]
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


def _components(photos: Photos) -> NDArray[np.float32]:
    """(d, k): where the photos spread most. Distances need no centre."""
    centred = photos.vectors - photos.vectors.mean(axis=0)
    components: NDArray[np.float32] = np.linalg.svd(centred, full_matrices=False)[2][:COMPONENTS].T
    return components


def _with_wrong_ones(labels: NDArray[np.str_], random: np.random.Generator) -> NDArray[np.str_]:
    wrong, kinds = labels.copy(), np.unique(labels)
    for row in random.choice(len(labels), round(FLIPPED * len(labels)), replace=False):
        wrong[row] = random.choice(kinds[kinds != labels[row]])
    return wrong


if __name__ == "__main__":
    main()
