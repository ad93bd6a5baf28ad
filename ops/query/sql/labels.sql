-- How many photos each label has, how many of them differ, and when the first and the last arrived.
-- since: date = 365 days ago: the first day to count
-- none: No photo has been ingested since that day.
SELECT
    label,
    count(*) AS photos,
    count(DISTINCT image_id) AS images,
    min(arrived_at) AS first_arrival,
    max(arrived_at) AS last_arrival
FROM photos
WHERE ingest_date >= ?
GROUP BY label
ORDER BY label
