CREATE OR REPLACE VIEW current_projections AS
SELECT
    photo.image_id,
    photo.source,
    CASE WHEN said.image_id IS NULL THEN normalize(photo.label, NFC) ELSE said.label END AS label,
    normalize(photo.subject, NFC) AS subject,
    CAST(photo.arrived_at AT TIME ZONE 'UTC' AS timestamp) AS arrived_at,
    photo.pca,
    photo.featurizer,
    photo.batch,
    CAST(photo.ingested_at AT TIME ZONE 'UTC' AS timestamp) AS ingested_at,
    photo.pca_version,
    photo.ingest_date,
    normalize(photo.predicted, NFC) AS predicted,
    photo.confidence,
    photo.top3,
    photo.distance,
    photo.novelty,
    photo.in_fit,
    normalize(photo.label, NFC) AS folder_label,
    CASE WHEN said.image_id IS NOT NULL THEN said.origin WHEN photo.label IS NOT NULL THEN 'folder' END AS label_origin
FROM projections AS photo
LEFT JOIN said_labels AS said ON photo.image_id = said.image_id
WHERE photo.pca_version = (SELECT serving FROM pca_current)
