-- What became of the files whose URI holds some text, the latest first.
-- source: varchar: a part of the URI, like kiwi/IMG_1.jpg; upper and lower case differ
-- k: integer = 20: how many files to show
-- none: No file with that in its URI has an outcome; `fruits status` tells whether any wait.
WITH outcomes AS (
    SELECT source, 'photo' AS outcome, image_id, arrived_at, ingested_at FROM ingested_photos
    UNION ALL
    SELECT
        source,
        reason AS outcome,
        CAST(NULL AS varchar) AS image_id,
        CAST(arrived_at AT TIME ZONE 'UTC' AS timestamp) AS arrived_at,
        CAST(ingested_at AT TIME ZONE 'UTC' AS timestamp) AS ingested_at
    FROM rejects
),

found AS (
    SELECT *, row_number() OVER (ORDER BY arrived_at DESC, source, ingested_at DESC) AS place
    FROM outcomes
    WHERE strpos(normalize(source, NFC), ?) > 0
)

SELECT source, outcome, arrived_at, ingested_at, image_id
FROM found
WHERE place <= ?
ORDER BY place
