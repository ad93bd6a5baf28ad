CREATE OR REPLACE VIEW arrivals AS
SELECT
    source,
    normalize(label, NFC) AS label,
    CAST(arrived_at AT TIME ZONE 'UTC' AS timestamp) AS arrived_at,
    'photo' AS outcome,
    batch,
    CAST(ingested_at AT TIME ZONE 'UTC' AS timestamp) AS ingested_at,
    ingest_date
FROM features
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
