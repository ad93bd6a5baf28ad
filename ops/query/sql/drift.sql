-- How far each day's photos, as a whole, lie from those that each PCA version was fitted on.
-- since: date = 30 days ago: the first day to look at
-- none: No photo since that day has a projection; `fruits refit --reproject` makes them.
WITH points AS (
    SELECT pca_version, ingest_date, pca FROM projections WHERE ingest_date >= ?
),

coordinates AS (
    SELECT
        pca_version,
        ingest_date,
        i,
        count(*) AS photos,
        avg(CAST(x AS double)) AS centre,
        sum(CAST(x AS double) * x) AS squares
    FROM points
    CROSS JOIN UNNEST(pca) WITH ORDINALITY AS coordinate (x, i)
    GROUP BY pca_version, ingest_date, i
),

-- A version projects the mean of the photos it was fitted on to zero, so the length of a day's mean is its drift.
days AS (
    SELECT
        pca_version,
        ingest_date,
        max(photos) AS photos,
        sqrt(sum(centre * centre)) AS drift,
        sum(squares) AS squares
    FROM coordinates
    GROUP BY pca_version, ingest_date
)

-- by_chance is what the mean of so few photos, drawn from all of these, is off by. Drift of many times that says that
-- other photos come now than those the version knows: refit.
SELECT
    pca_version,
    ingest_date AS day,
    photos,
    sqrt(squares / photos) AS spread,
    drift,
    sqrt(
        sum(squares) OVER (PARTITION BY pca_version) / sum(photos) OVER (PARTITION BY pca_version) / photos
    ) AS by_chance
FROM days
ORDER BY pca_version DESC, ingest_date
