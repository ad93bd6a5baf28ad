-- Which photos without a label are most worth a person's look: the least sure ones, in turns over what is predicted.
-- since: date = 28 days ago: the first day whose photos count
-- random: boolean = false: a fair sample instead, by which to measure how often answers are right
-- limit: integer = 100: how many photos to show
-- none: No photo since that day waits for a label, or no version is served; `fruits refit --reproject` makes one.
WITH recent AS (
    SELECT image_id, label, label_origin, folder_label, predicted, confidence, novelty, source, ingest_date
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
        min(source) AS source,
        max(ingest_date) AS ingest_date
    FROM recent
    GROUP BY image_id
),

-- Photos of one fruit that confuses the version would all come at once.
turns AS (
    SELECT *, row_number() OVER (PARTITION BY predicted ORDER BY confidence, image_id) AS turn
    FROM images
    WHERE label_origin IS NULL
),

-- An image_id is a hash, so the first ones are a fair sample, of the photos of each day alike, however often somebody
-- asks. Photos that were chosen belong to it, with the label that they got: without these hard ones it would flatter.
samples AS (
    SELECT *, 'chosen' AS origin, FALSE AS is_random, row_number() OVER (ORDER BY turn, confidence, image_id) AS place
    FROM turns
    UNION ALL
    SELECT *, 1 AS turn, 'random' AS origin, TRUE AS is_random, row_number() OVER (ORDER BY image_id) AS place
    FROM images
    WHERE folder_label IS NULL AND (label_origin IS NULL OR label_origin = 'chosen' AND label IS NOT NULL)
)

SELECT image_id, label, origin, predicted, confidence, novelty, source, ingest_date
FROM samples
WHERE is_random = ? AND place <= ?
ORDER BY place
