-- How many files came to an outcome each day, how many of them are rejects, and how many bytes.
-- since: date = 30 days ago: the first day to count (ingest_date: the UTC day on which a file was planned)
-- none: No file has come to an outcome since that day; `fruits status` tells whether any wait.
WITH outcomes AS (
    SELECT ingest_date, bytes, 0 AS reject FROM ingested_photos
    UNION ALL
    SELECT ingest_date, bytes, 1 AS reject FROM rejects
)

SELECT
    ingest_date AS day,
    count(*) AS arrivals,
    count(*) - CAST(sum(reject) AS bigint) AS photos,
    CAST(sum(reject) AS bigint) AS rejects,
    round(1e2 * sum(reject) / count(*), 2) AS rejects_percent,
    CAST(sum(bytes) AS bigint) AS bytes
FROM outcomes
WHERE ingest_date >= ?
GROUP BY ingest_date
ORDER BY ingest_date
