CREATE OR REPLACE VIEW photos AS
SELECT
    image_id,
    source,
    etag,
    bytes,
    CAST(arrived_at AT TIME ZONE 'UTC' AS timestamp) AS arrived_at,
    normalize(label, NFC) AS label,
    normalize(subject, NFC) AS subject,
    format,
    width,
    height,
    features,
    featurizer,
    batch,
    CAST(ingested_at AT TIME ZONE 'UTC' AS timestamp) AS ingested_at,
    ingest_date,
    CAST(coalesce(first_visible_at, arrived_at) AT TIME ZONE 'UTC' AS timestamp) AS first_visible_at,
    normalize(answer, NFC) AS answer,
    answer_confidence,
    answer_version
FROM features
