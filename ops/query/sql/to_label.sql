-- Which photos without a label are most worth a person's look: unsure, strange, and unlike each other.
-- since: date = 28 days ago: the first day whose photos count
-- random: boolean = false: a fair sample instead, by which to measure how often answers are right
-- limit: integer = 100: how many photos to show
-- none: No photo since that day waits for a label, or no version is served; `fruits refit --reproject` makes one.
WITH recent AS (
    SELECT
        image_id,
        label,
        label_origin,
        folder_label,
        predicted,
        confidence,
        novelty,
        distance,
        pca,
        source,
        ingest_date
    FROM current_projections
    WHERE ingest_date >= ?
),

-- Copies of one photo are one photo, and a label of one of them is a label of all.
images AS (
    SELECT
        image_id,
        max(label) AS label,
        max(label_origin) AS label_origin,
        max(folder_label) AS folder_label,
        max(predicted) AS predicted,
        max(confidence) AS confidence,
        max(novelty) AS novelty,
        max(distance) AS distance,
        arbitrary(pca) AS pca,
        min(source) AS source,
        max(ingest_date) AS ingest_date
    FROM recent
    GROUP BY image_id
),

scored AS (
    SELECT *, (1e0 - confidence) * percent_rank() OVER (ORDER BY distance) AS score
    FROM images
    WHERE label_origin IS NULL
),

ranked AS (
    SELECT *, row_number() OVER (ORDER BY score DESC, image_id) AS standing FROM scored
),

-- More cost seconds, as each is compared with each, and serve no better.
candidates AS (
    SELECT image_id, standing, pca FROM ranked WHERE standing <= 500
),

-- How far a candidate is from the nearest of those before it, by the components that say most.
gaps AS (
    SELECT
        here.image_id,
        min(
            reduce(
                sequence(1, least(16, cardinality(here.pca))),
                0e0,
                (total, i) -> total + power(here.pca[i] - there.pca[i], 2),
                total -> total
            )
        ) AS gap
    FROM candidates AS here
    INNER JOIN candidates AS there ON here.standing > there.standing
    GROUP BY here.image_id
),

-- The first candidate has none before it; those that are no candidates come last.
chosen AS (
    SELECT
        ranked.*,
        row_number() OVER (ORDER BY CASE WHEN ranked.standing = 1 THEN 1e300 ELSE gaps.gap END DESC, ranked.standing) AS place
    FROM ranked
    LEFT JOIN gaps ON ranked.image_id = gaps.image_id
),

-- An image_id is a hash, so the first ones are a fair sample, of the photos of each day alike, however often somebody
-- asks. Photos that were chosen belong to it, with the label that they got: without these hard ones it would flatter.
drawn AS (
    SELECT *, row_number() OVER (ORDER BY image_id) AS place
    FROM images
    WHERE folder_label IS NULL AND (label_origin IS NULL OR (label_origin = 'chosen' AND label IS NOT NULL))
),

samples AS (
    SELECT image_id, label, 'chosen' AS origin, predicted, confidence, novelty, source, ingest_date, place
    FROM chosen
    UNION ALL
    SELECT image_id, label, 'random' AS origin, predicted, confidence, novelty, source, ingest_date, place
    FROM drawn
)

SELECT image_id, label, origin, predicted, confidence, novelty, source, ingest_date
FROM samples
WHERE (origin = 'random') = ? AND place <= ?
ORDER BY place
