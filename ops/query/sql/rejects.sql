-- How many files were refused each day and why, with the words of one of them.
-- since: date = 30 days ago: the first day to count
-- none: No file was refused since that day.
SELECT
    ingest_date AS day,
    reason,
    count(*) AS files,
    CAST(sum(bytes) AS bigint) AS bytes,
    min(detail) AS example
FROM rejects
WHERE ingest_date >= ?
GROUP BY ingest_date, reason
ORDER BY ingest_date, files DESC, reason
