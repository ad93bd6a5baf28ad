CREATE OR REPLACE VIEW current_projections AS
SELECT
    image_id,
    source,
    normalize(label, NFC) AS label,
    normalize(subject, NFC) AS subject,
    CAST(arrived_at AT TIME ZONE 'UTC' AS timestamp) AS arrived_at,
    pca,
    featurizer,
    batch,
    CAST(ingested_at AT TIME ZONE 'UTC' AS timestamp) AS ingested_at,
    pca_version,
    ingest_date,
    normalize(predicted, NFC) AS predicted,
    confidence,
    top3,
    distance,
    novelty,
    in_fit
FROM projections
WHERE pca_version = (SELECT serving FROM pca_current)
