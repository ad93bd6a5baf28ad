-- How far each label's photos spread in the served PCA space, and which other label lies nearest.
-- since: date = 365 days ago: the first day whose photos count
-- none: No photo since that day has a projection of a served PCA version; `fruits refit --reproject` makes them.
WITH points AS (
    SELECT label, pca FROM current_projections WHERE ingest_date >= ?
),

coordinates AS (
    SELECT
        label,
        i,
        count(*) AS photos,
        avg(CAST(x AS double)) AS centre,
        var_pop(CAST(x AS double)) AS variance
    FROM points
    CROSS JOIN UNNEST(pca) WITH ORDINALITY AS coordinate (x, i)
    GROUP BY label, i
),

-- The spread is the root of the mean squared distance of a label's photos from their centroid.
labels AS (
    SELECT label, max(photos) AS photos, sqrt(sum(variance)) AS spread
    FROM coordinates
    GROUP BY label
),

pairs AS (
    SELECT here.label, there.label AS nearest_label, sqrt(sum(power(here.centre - there.centre, 2))) AS distance
    FROM coordinates AS here
    INNER JOIN coordinates AS there ON here.i = there.i AND here.label <> there.label
    GROUP BY here.label, there.label
),

ranked AS (
    SELECT *, row_number() OVER (PARTITION BY label ORDER BY distance, nearest_label) AS place
    FROM pairs
)

SELECT labels.label, labels.photos, labels.spread, ranked.nearest_label, ranked.distance
FROM labels
LEFT JOIN ranked ON labels.label = ranked.label AND ranked.place = 1
ORDER BY labels.label
