CREATE OR REPLACE VIEW arrivals AS
SELECT
    photo.source,
    CASE WHEN said.image_id IS NULL THEN photo.folder_label ELSE said.label END AS label,
    photo.arrived_at,
    'photo' AS outcome,
    photo.batch,
    photo.ingested_at,
    photo.ingest_date
FROM ingested_photos AS photo
LEFT JOIN said_labels AS said ON photo.image_id = said.image_id
UNION ALL
SELECT
    source,
    CAST(NULL AS varchar) AS label,
    CAST(arrived_at AT TIME ZONE 'UTC' AS timestamp) AS arrived_at,
    reason AS outcome,
    batch,
    CAST(ingested_at AT TIME ZONE 'UTC' AS timestamp) AS ingested_at,
    ingest_date
FROM rejects
