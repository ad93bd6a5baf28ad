-- How many seconds photos waited for their row, by day: half of them at most p50, 99 of 100 at most p99.
-- since: date = 30 days ago: the first day to count
-- none: No photo has been ingested since that day.
WITH waits AS (
    SELECT ingest_date, date_diff('millisecond', first_visible_at, ingested_at) / 1e3 AS waited_s
    FROM photos
    WHERE ingest_date >= ?
),

-- The nearest rank: the shortest wait that at least so many of a day's photos stay within. Exact, unlike
-- approx_percentile.
ranked AS (
    SELECT
        ingest_date,
        waited_s,
        row_number() OVER (PARTITION BY ingest_date ORDER BY waited_s) AS place,
        count(*) OVER (PARTITION BY ingest_date) AS photos
    FROM waits
)

SELECT
    ingest_date AS day,
    count(*) AS photos,
    min(CASE WHEN 100 * place >= 50 * photos THEN waited_s END) AS p50_s,
    min(CASE WHEN 100 * place >= 90 * photos THEN waited_s END) AS p90_s,
    min(CASE WHEN 100 * place >= 95 * photos THEN waited_s END) AS p95_s,
    min(CASE WHEN 100 * place >= 99 * photos THEN waited_s END) AS p99_s,
    max(waited_s) AS longest_s
FROM ranked
GROUP BY ingest_date
ORDER BY ingest_date
