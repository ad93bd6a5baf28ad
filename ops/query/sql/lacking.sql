-- Which photos have no row of a network, the latest first: `photos` lacks them if it is the served one.
-- featurizer: varchar = served: the id of the network's featurizer, or served
-- since: date = 365 days ago: the first day to look at
-- k: integer = 100: how many photos to show
-- none: Every photo since that day has a row of that network.
WITH made AS (
    SELECT photo.ingest_date, photo.batch, photo.source, photo.etag
    FROM features AS photo CROSS JOIN pca_current
    WHERE photo.featurizer = coalesce(nullif(?, 'served'), pca_current.featurizer)
),

lacking AS (
    SELECT photo.*, row_number() OVER (ORDER BY photo.arrived_at DESC, photo.source) AS place
    FROM ingested_photos AS photo
    LEFT JOIN made
        ON
            photo.ingest_date = made.ingest_date
            AND photo.batch = made.batch
            AND photo.source = made.source
            AND photo.etag = made.etag
    WHERE photo.ingest_date >= ? AND made.batch IS NULL
)

SELECT source, image_id, arrived_at, ingest_date, batch, featurizer AS has_row_of
FROM lacking
WHERE place <= ?
ORDER BY place
