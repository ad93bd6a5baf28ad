CREATE OR REPLACE VIEW ingested_photos AS
WITH shown AS (
    SELECT ingest_date, batch, source, etag
    FROM features
    WHERE featurizer = (SELECT featurizer FROM pca_current)
),

found AS (
    SELECT photo.*, 1 AS place
    FROM features AS photo
    WHERE photo.featurizer = (SELECT featurizer FROM pca_current)
    UNION ALL
    SELECT
        photo.*,
        row_number() OVER (
            PARTITION BY photo.ingest_date, photo.batch, photo.source, photo.etag ORDER BY photo.featurizer
        ) AS place
    FROM features AS photo
    LEFT JOIN shown
        ON
            photo.ingest_date = shown.ingest_date
            AND photo.batch = shown.batch
            AND photo.source = shown.source
            AND photo.etag = shown.etag
    WHERE photo.featurizer <> coalesce((SELECT featurizer FROM pca_current), '') AND shown.batch IS NULL
)

SELECT
    image_id,
    source,
    etag,
    bytes,
    CAST(arrived_at AT TIME ZONE 'UTC' AS timestamp) AS arrived_at,
    normalize(label, NFC) AS folder_label,
    normalize(subject, NFC) AS subject,
    format,
    width,
    height,
    featurizer,
    batch,
    CAST(ingested_at AT TIME ZONE 'UTC' AS timestamp) AS ingested_at,
    ingest_date,
    CAST(coalesce(first_visible_at, arrived_at) AT TIME ZONE 'UTC' AS timestamp) AS first_visible_at
FROM found
WHERE place = 1
