-- Which photos came more than once, under how many names and labels, and when first and last.
-- since: date = 365 days ago: the first day to look at
-- k: integer = 100: how many photos to show, those with most copies first
-- none: No photo came more than once since that day.
WITH copies AS (
    SELECT
        image_id,
        count(*) AS photos,
        count(DISTINCT source) AS sources,
        array_join(array_agg(DISTINCT label ORDER BY label), ', ') AS labels,
        min(arrived_at) AS first_arrival,
        max(arrived_at) AS last_arrival
    FROM photos
    WHERE ingest_date >= ?
    GROUP BY image_id
    HAVING count(*) > 1
),

ranked AS (
    SELECT *, row_number() OVER (ORDER BY photos DESC, image_id) AS place FROM copies
)

SELECT image_id, photos, sources, labels, first_arrival, last_arrival
FROM ranked
WHERE place <= ?
ORDER BY place
