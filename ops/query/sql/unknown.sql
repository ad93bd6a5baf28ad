-- Which photos show what the served version does not know, the strangest first.
-- since: date = 28 days ago: the first day to look at
-- novelty: double = 0.99: how strange a photo must be: the share of ordinary photos that are less strange
-- limit: integer = 20: how many photos to show
-- none: No photo since that day is that strange to the served version, or it names none.
WITH strange AS (
    SELECT label, predicted, confidence, novelty, distance, source, image_id
    FROM current_projections
    WHERE ingest_date >= ? AND novelty > ?
),

ranked AS (
    SELECT *, row_number() OVER (ORDER BY distance DESC, source) AS place FROM strange
)

SELECT label, predicted, confidence, novelty, distance, source, image_id
FROM ranked
WHERE place <= ?
ORDER BY place
