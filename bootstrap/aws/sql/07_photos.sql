CREATE OR REPLACE VIEW photos AS
SELECT
    photo.image_id,
    photo.source,
    photo.etag,
    photo.bytes,
    CAST(photo.arrived_at AT TIME ZONE 'UTC' AS timestamp) AS arrived_at,
    CASE WHEN said.image_id IS NULL THEN normalize(photo.label, NFC) ELSE said.label END AS label,
    normalize(photo.subject, NFC) AS subject,
    photo.format,
    photo.width,
    photo.height,
    photo.features,
    photo.featurizer,
    photo.batch,
    CAST(photo.ingested_at AT TIME ZONE 'UTC' AS timestamp) AS ingested_at,
    photo.ingest_date,
    CAST(coalesce(photo.first_visible_at, photo.arrived_at) AT TIME ZONE 'UTC' AS timestamp) AS first_visible_at,
    normalize(photo.answer, NFC) AS answer,
    photo.answer_confidence,
    photo.answer_version,
    normalize(photo.label, NFC) AS folder_label,
    CASE WHEN said.image_id IS NOT NULL THEN said.origin WHEN photo.label IS NOT NULL THEN 'folder' END AS label_origin
FROM features AS photo
LEFT JOIN said_labels AS said ON photo.image_id = said.image_id
-- A pointer of a former release names no network, and its home had one.
WHERE photo.featurizer = coalesce((SELECT featurizer FROM pca_current), photo.featurizer)
