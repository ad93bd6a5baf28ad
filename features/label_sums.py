"""Sums of labelled rows that add up: all that the classifier needs to know of them."""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.pca import Moments, MomentsSum, merge_moments, pack_moments, subtract_moments, unpack_moments

# What a version can name, and what a stored day keeps of labels: 10 MB.
MOST_LABELS = 1_000
# As many people must have photographed a fruit before its label is an answer; more are not counted.
ENOUGH_SUBJECTS = 3


@dataclass(frozen=True, eq=False)
class LabelSums:
    """Of each label, ascending: how many rows it has, their sum, and a few of the people who took them.

    `counts` is (c,) int64, `sums` (c, d) float64, `subjects` (c, 3) int64: the smallest hashes of different subjects,
    then -1. Beyond 1,000 labels the smallest ones are only counted together: `other_rows`, and `other_sum` (d,).
    """

    labels: tuple[str, ...]
    counts: NDArray[np.int64]
    sums: NDArray[np.float64]
    subjects: NDArray[np.int64]
    other_rows: int
    other_sum: NDArray[np.float64]

    @property
    def rows(self) -> int:
        return int(self.counts.sum()) + self.other_rows


@dataclass(frozen=True, eq=False)
class RowSums:
    """Moments of the labelled and of the other rows, and the sums of each label.

    The PCA takes both moments together. The classifier takes the labelled ones: rows without a label in its scatter
    would cost it a third of its accuracy.
    """

    labelled: Moments
    unlabelled: Moments
    labels: LabelSums

    @property
    def rows(self) -> int:
        return self.labelled.rows + self.unlabelled.rows

    @property
    def length(self) -> int:
        """How many numbers a row has."""
        return len(self.labels.other_sum)

    @property
    def moments(self) -> Moments:
        """The moments of all rows."""
        return merge_moments((self.labelled, self.unlabelled), self.length)


class RowSummer:
    """Sums up rows chunk by chunk, in one pass."""

    def __init__(self, columns: int) -> None:
        self._labelled = MomentsSum(columns)
        self._unlabelled = MomentsSum(columns)
        self._labels = LabelSummer(columns)

    def add(
        self, rows: NDArray[np.floating[Any]], labels: Sequence[str | None], subjects: Sequence[str | None]
    ) -> None:
        """Add rows (n, d) of any float dtype with their labels and subjects. Raises NotFinite and ValueError."""
        known = [(label, subject) for label, subject in zip(labels, subjects, strict=True) if label is not None]
        if not known:
            self._unlabelled.add(rows)
            return
        if len(known) < len(labels):
            has_label = np.fromiter((label is not None for label in labels), bool, len(labels))
            self._unlabelled.add(rows[~has_label])
            rows = rows[has_label]
        self._labelled.add(rows)
        self._labels.add(rows, known)

    def result(self) -> RowSums:
        """The sums of all rows so far. Raises NotFinite."""
        return RowSums(self._labelled.result(), self._unlabelled.result(), self._labels.result())


class LabelSummer:
    """Sums of labels that grow by chunks, in one pass."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._summed = no_labels(columns)
        self._place_of: dict[str, int] = {}
        self._counts = np.zeros(0, np.int64)
        self._sums = np.zeros((0, columns))
        self._subjects: list[set[int]] = []

    def add(self, rows: NDArray[np.floating[Any]], of_rows: Sequence[tuple[str, str | None]]) -> None:
        """Add labelled rows (n, d), each with its label and subject."""
        place_of = self._place_of
        places = np.array([place_of.setdefault(label, len(place_of)) for label, _ in of_rows], np.int64)
        new = len(place_of) - len(self._sums)
        if new:
            self._sums = np.concatenate([self._sums, np.zeros((new, self._columns))])
            self._subjects += [set() for _ in range(new)]
        counts = np.bincount(places, minlength=len(place_of))
        self._counts = counts + np.pad(self._counts, (0, new))
        order, ends = np.argsort(places, kind="stable"), np.cumsum(counts)
        for place in np.nonzero(counts)[0].tolist():
            of_label = rows[order[ends[place] - counts[place] : ends[place]]].astype(np.float64)
            # A fifth of the time of `reduceat`, and of a sum by columns.
            self._sums[place] += np.ones(len(of_label)) @ of_label
        for label, subject in set(of_rows):
            if subject is not None:
                self._subjects[place_of[label]].add(_hash(subject))
        if len(place_of) > MOST_LABELS:
            self._summed = self.result()
            self._place_of, self._subjects = {}, []
            self._counts, self._sums = np.zeros(0, np.int64), np.zeros((0, self._columns))

    def result(self) -> LabelSums:
        """The sums of all rows so far."""
        labels = sorted(self._place_of)
        places = [self._place_of[label] for label in labels]
        subjects = _smallest_hashes([self._subjects[place] for place in places])
        none = np.zeros(self._columns)
        added = LabelSums(tuple(labels), self._counts[places], self._sums[places], subjects, 0, none)
        return merge_labels((self._summed, _largest(added)), self._columns)


def no_labels(columns: int) -> LabelSums:
    """The sums of no rows."""
    none = np.zeros(0, np.int64)
    return LabelSums((), none, np.zeros((0, columns)), none.reshape(0, ENOUGH_SUBJECTS), 0, np.zeros(columns))


def merge_labels(parts: Iterable[LabelSums], columns: int) -> LabelSums:
    """The sums of the rows of all parts, up to rounding; no parts give no labels."""
    some = [part for part in parts if part.rows]
    if len(some) == 1:
        return some[0]
    labels = sorted({label for part in some for label in part.labels})
    place_of = {label: place for place, label in enumerate(labels)}
    counts, sums = np.zeros(len(labels), np.int64), np.zeros((len(labels), columns))
    subjects: list[set[int]] = [set() for _ in labels]
    for part in some:
        places = [place_of[label] for label in part.labels]
        counts[places] += part.counts
        sums[places] += part.sums
        for place, hashes in zip(places, part.subjects.tolist(), strict=True):
            subjects[place].update(hashes)
    other_rows = sum(part.other_rows for part in some)
    other_sum = sum((part.other_sum for part in some), np.zeros(columns))
    return _largest(LabelSums(tuple(labels), counts, sums, _smallest_hashes(subjects), other_rows, other_sum))


def merge_sums(parts: Iterable[RowSums], columns: int) -> RowSums:
    """The sums of the rows of all parts, up to rounding; no parts give zeros. The parts may come one by one."""
    labelled, unlabelled, labels = merge_moments((), columns), merge_moments((), columns), no_labels(columns)
    for part in parts:
        labelled = merge_moments((labelled, part.labelled), columns)
        unlabelled = merge_moments((unlabelled, part.unlabelled), columns)
        labels = merge_labels((labels, part.labels), columns)
    return RowSums(labelled, unlabelled, labels)


def pack_sums(sums: RowSums) -> bytes:
    """Sums as bytes of an npz file. The same sums give the same bytes."""
    body = io.BytesIO()
    np.savez(
        body,
        labelled=np.frombuffer(pack_moments(sums.labelled), np.uint8),
        unlabelled=np.frombuffer(pack_moments(sums.unlabelled), np.uint8),
        **label_arrays(sums.labels),
    )
    return body.getvalue()


def unpack_sums(body: bytes) -> RowSums:
    """The sums that `pack_sums` was given, to the last bit. Raises ValueError for other bytes."""
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            labelled, unlabelled = (unpack_moments(archive[name].tobytes()) for name in ("labelled", "unlabelled"))
            labels = labels_in(archive, "", len(labelled.mean))
    # NumPy and zipfile raise a dozen unrelated kinds of errors for damaged bytes.
    except Exception as error:
        raise ValueError(f"these {len(body)} bytes are not packed sums: {error}") from error
    return RowSums(labelled, unlabelled, labels)


def label_arrays(labels: LabelSums, prefix: str = "") -> dict[str, Any]:
    """Sums of labels as arrays of an npz file, under names that begin so."""
    arrays = {
        "labels": pack_texts(labels.labels),
        "counts": labels.counts,
        "sums": labels.sums,
        "subjects": labels.subjects,
        "other_rows": np.array(labels.other_rows, np.int64),
        "other_sum": labels.other_sum,
    }
    return {prefix + name: array for name, array in arrays.items()}


def labels_in(archive: Mapping[str, NDArray[Any]], prefix: str, columns: int) -> LabelSums:
    """The sums that `label_arrays` was given. Raises ValueError, KeyError and others for other arrays."""
    names = ("counts", "sums", "subjects", "other_rows", "other_sum")
    counts, sums, subjects, other_rows, other_sum = (archive[prefix + name] for name in names)
    texts = unpack_texts(archive[prefix + "labels"], len(counts))
    if sums.shape != (len(texts), columns):
        raise ValueError(f"{len(texts)} labels with sums of {sums.shape}")
    return LabelSums(texts, counts, sums, subjects, int(other_rows), other_sum)


def subtract_sums(whole: RowSums, part: RowSums) -> RowSums:
    """The sums of the rows that are in `whole` and not in `part`, up to rounding; labels keep the people of `whole`."""
    place_of = {label: place for place, label in enumerate(whole.labels.labels)}
    kept = [place for place, label in enumerate(part.labels.labels) if label in place_of]
    places = [place_of[part.labels.labels[place]] for place in kept]
    counts, sums = whole.labels.counts.copy(), whole.labels.sums.copy()
    counts[places] -= part.labels.counts[kept]
    sums[places] -= part.labels.sums[kept]
    # Labels that only one of the two keeps apart blur this.
    counts = np.maximum(counts, 0)
    other_rows = max(0, whole.labels.rows - part.labels.rows - int(counts.sum()))
    has_rows = counts > 0
    labels = tuple(label for label, has in zip(whole.labels.labels, has_rows, strict=True) if has)
    lost = [place for place, label in enumerate(part.labels.labels) if label not in place_of]
    other_sum = whole.labels.other_sum - part.labels.other_sum - part.labels.sums[lost].sum(axis=0)
    return RowSums(
        subtract_moments(whole.labelled, part.labelled),
        subtract_moments(whole.unlabelled, part.unlabelled),
        LabelSums(labels, counts[has_rows], sums[has_rows], whole.labels.subjects[has_rows], other_rows, other_sum),
    )


def pack_texts(texts: Sequence[str]) -> NDArray[np.uint8]:
    """Texts as an array of bytes, JSON: a label may hold any character."""
    return np.frombuffer(json.dumps(list(texts)).encode(), np.uint8)


def unpack_texts(packed: NDArray[np.uint8], number: int) -> tuple[str, ...]:
    """The texts that `pack_texts` was given, that many. Raises ValueError for other bytes."""
    texts = tuple(json.loads(packed.tobytes()))
    if len(texts) != number:
        raise ValueError(f"{len(texts)} texts instead of {number}")
    return texts


def _hash(subject: str) -> int:
    # Whoever has the name can find it in the sums; an erasure forgets the sums of the person's days.
    digest = hashlib.blake2b(subject.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _smallest_hashes(subjects: Sequence[set[int]]) -> NDArray[np.int64]:
    # The smallest ones of a union are among the smallest ones of its parts, so three are enough to count to three.
    smallest = np.full((len(subjects), ENOUGH_SUBJECTS), -1, np.int64)
    for row, hashes in zip(smallest, subjects, strict=True):
        few = sorted(hashes - {-1})[:ENOUGH_SUBJECTS]
        row[: len(few)] = few
    return smallest


def _largest(sums: LabelSums) -> LabelSums:
    """The sums with at most 1,000 labels of their own."""
    if len(sums.labels) <= MOST_LABELS:
        return sums
    is_kept = np.zeros(len(sums.labels), bool)
    is_kept[np.argsort(-sums.counts, kind="stable")[:MOST_LABELS]] = True
    return LabelSums(
        tuple(label for label, kept in zip(sums.labels, is_kept, strict=True) if kept),
        sums.counts[is_kept],
        sums.sums[is_kept],
        sums.subjects[is_kept],
        sums.other_rows + int(sums.counts[~is_kept].sum()),
        sums.other_sum + sums.sums[~is_kept].sum(axis=0),
    )
